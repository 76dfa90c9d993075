"""A reward as a program of steps: what is computed from z one after the other, and how the objective depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.contracts import Floats
from alignkit.errors import BackendRefusedError
from alignkit.expressions import Atom, Expression
from alignkit.expressions.curvature import Monotonicity
from alignkit.expressions.expression import topological
from alignkit.expressions.leaf import Variable
from alignkit.expressions.linear import LinearForm, linear_form
from alignkit.expressions.splitting import Split, split
from alignkit_pyomo.linear import Affine, Linear, combined
from alignkit_pyomo.lowering import materialised
from alignkit_pyomo.model import Model
from alignkit_pyomo.steps import Free, Function, Largest, Polyline, Segments, Sigmoid, Step, SumOfLargest

__all__ = ["Program", "Sketch", "Unsupported", "program_of"]


class Unsupported(Exception):
    """Why there is no program, or nothing to bound it by."""


@dataclass(frozen=True, eq=False)
class Domain:
    """Inputs that have to lie above a bound for the reward to be finite.

    Arguments:
        inputs: affine functions of z and of outputs, m of them.
        bound: a number.
    """

    inputs: Affine
    bound: float


@dataclass(frozen=True, eq=False)
class Program:
    """f(z) = q(z) + ⟨a, z⟩ + ⟨b, t⟩ + c with a quadratic q and outputs t of steps.

    Arguments:
        parts: f as its quadratic part q and the rest.
        steps: in order; an output t_j may depend on z and on t_i with i < j.
        rest: ⟨a, z⟩ + ⟨b, t⟩ + c, one row.
        domain: where f is finite.
    """

    parts: Split
    steps: tuple[Step, ...]
    rest: Affine
    domain: tuple[Domain, ...]

    @property
    def is_linear(self) -> bool:
        """Whether f is piecewise linear, so that integers and rows express it."""
        return not self.parts.curved and not any(step.is_nonlinear for step in self.steps)

    @property
    def needs_box(self) -> bool:
        """Whether some step takes bounds on z."""
        return not self.is_linear or any(step.needs_box for step in self.steps)

    @cached_property
    def _weights(self) -> Floats:
        """By how much f moves with each output, about, (j,): slopes of curves in between count as 1."""
        found = np.zeros(len(self.steps))
        found[: self.rest.outputs.shape[1]] = np.abs(self.rest.outputs[0])
        for place in reversed(range(len(self.steps))):
            through = np.abs(self.steps[place].inputs.outputs)
            if through.size:
                found[: through.shape[1]] += found[place] * through.max(axis=0)
        return found

    def recession(self) -> tuple[Program, float]:
        """What a piecewise linear f tends to far out, f^∞, positively homogeneous, and a bound of |f − f^∞|."""
        steps: list[Step] = []
        apart = np.zeros(len(self.steps))
        for place, step in enumerate(self.steps):
            offsets = np.abs(step.inputs.constant) + _carried(step.inputs, apart)
            far, own = replace(step, inputs=_homogeneous(step.inputs)).recession()
            apart[place] = own + step.slope * offsets.max(initial=0.0)
            steps.append(far)
        total = float((np.abs(self.rest.constant) + _carried(self.rest, apart))[0]) + abs(self.parts.constant)
        parts = replace(self.parts, constant=0.0)
        return Program(parts, tuple(steps), _homogeneous(self.rest), ()), total

    def bounds(self, centres: Floats, radii: Floats) -> tuple[Floats, Floats]:
        """Bounds of the outputs for z in balls, (n, j) each.

        Arguments:
            centres: (n, k).
            radii: (n,).
        """
        lower, upper = np.zeros((2, len(centres), len(self.steps)))
        for place, step in enumerate(self.steps):
            inputs = step.inputs.interval(centres, radii, lower, upper)
            lower[:, place], upper[:, place] = step.bounds(*inputs)
        return lower, upper

    def write(self, model: Model, centre: Floats, scale: Floats, lower: Floats, upper: Floats) -> Linear:
        """Write the steps for one row, and return f without its quadratic part.

        Arguments:
            model: whose coordinates y, z = centre + scale·y, are its only columns yet.
            centre: (k,).
            scale: (k, k).
            lower, upper: of the outputs, (j,).
        """
        outputs = [model.column(low, high) for low, high in zip(lower.tolist(), upper.tolist(), strict=True)]
        for condition in self.domain:
            for row in range(len(condition.inputs.constant)):
                model.keep(condition.inputs.at(row, centre, scale), lower=condition.bound)
        for step, output, weight in zip(self.steps, outputs, self._weights.tolist(), strict=True):
            inputs = [step.inputs.at(row, centre, scale) for row in range(len(step.inputs.constant))]
            before = len(model.relations)
            step.write(model, inputs, Linear.of(output))
            added = [replace(one, weight=model.unit * weight) for one in model.relations[before:]]
            model.relations[before:] = added
        return self.rest.at(0, centre, scale)


def _homogeneous(affine: Affine) -> Affine:
    return replace(affine, constant=np.zeros_like(affine.constant))


def _carried(affine: Affine, apart: Floats) -> Floats:
    """How far affine functions move when outputs do, (m,)."""
    return np.abs(affine.outputs) @ apart[: affine.outputs.shape[1]]


class Sketch:
    """A program that is being written.

    Arguments:
        dimension: k.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.steps: list[Step] = []

    def _add(self, step: Step) -> Linear:
        self.steps.append(step)
        return Linear.of(self.dimension + len(self.steps) - 1)

    def affine(self, entries: Sequence[Linear]) -> Affine:
        """Linear functions of z and of the outputs so far."""
        return Affine.of(entries, self.dimension, len(self.steps))

    def free(self, lower: float, upper: float) -> Linear:
        """A variable that the objective chooses."""
        return self._add(Free(self.affine([]), False, False, lower, upper))

    def largest(self, entries: Sequence[Linear], up: bool, down: bool) -> Linear:
        """The maximum; `up` and `down` say whether the objective may gain by more of it, and by less."""
        if len(entries) == 1:
            return entries[0]
        return self._add(Largest(self.affine(entries), up, down))

    def smallest(self, entries: Sequence[Linear], up: bool, down: bool) -> Linear:
        """The minimum."""
        return -self.largest([-entry for entry in entries], down, up)

    def segments(self, entry: Linear, line: Polyline, up: bool, down: bool) -> Linear:
        """A piecewise linear function."""
        return self._add(Segments(self.affine([entry]), up, down, line))

    def sum_of_largest(self, entries: Sequence[Linear], count: float, up: bool, down: bool) -> Linear:
        """The sum of the largest entries."""
        return self._add(SumOfLargest(self.affine(entries), up, down, count))

    def curve(self, kind: str, entries: Sequence[Linear], up: bool, down: bool, numbers: Any = None) -> Linear:
        """A nonlinear function."""
        return self._add(Function(self.affine(entries), up, down, kind, numbers))

    def sigmoid(self, entry: Linear, up: bool, down: bool) -> Linear:
        """1/(1 + e^(−a))."""
        return self._add(Sigmoid(self.affine([entry]), up, down))


def program_of(nonlinear: Expression) -> Program:
    """Write the program of a reward at the present values of its parameters.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).

    Raises:
        Unsupported: an atom has no form, or there are too many entries.
    """
    from alignkit_pyomo.forms import FORMS, UNFORMED

    parts = split(nonlinear)
    atoms: dict[int, Atom] = {}
    for term in parts.terms:
        for node in topological(term.atom):
            if isinstance(node, Atom) and node.depends:
                atoms.setdefault(id(node), node)
    for atom in atoms.values():
        if type(atom) not in FORMS:
            reason = UNFORMED.get(type(atom), "it is unknown to this backend")
            raise Unsupported(f"{atom} has no algebraic form: {reason}")
    forms = {id(arg): linear_form(arg) for atom in atoms.values() for arg in atom.args}
    gains = _directions(parts, atoms, forms)
    sketch = Sketch(parts.dimension)
    written: dict[int, list[Linear]] = {}
    domain: list[Domain] = []
    try:
        for atom in atoms.values():
            args = [_entries(forms[id(arg)], written, arg) for arg in atom.args]
            for place, bound, _ in atom._domain():
                if atom.args[place].range.lower < bound:
                    domain.append(Domain(sketch.affine(args[place]), bound))
            up, down = gains[id(atom)]
            written[id(atom)] = FORMS[type(atom)](sketch, atom, args, up, down)
    except BackendRefusedError as error:
        raise Unsupported(error.message) from error
    total = combined(
        (float(weight), entry)
        for term in parts.terms
        for weight, entry in zip(term.coefficients, written[id(term.atom)], strict=True)
        if weight
    )
    return Program(parts, tuple(sketch.steps), sketch.affine([total]), tuple(domain))


def _entries(form: LinearForm, written: dict[int, list[Linear]], expression: Expression) -> list[Linear]:
    """The entries of a linear combination of nodes."""
    rows: list[list[tuple[float, Linear]]] = [[(1.0, Linear({}, offset))] for offset in form.offset.tolist()]
    for node, matrix in form.parts:
        entries = [Linear.of(place) for place in range(node.size)] if isinstance(node, Variable) else written[id(node)]
        if matrix is None:
            for row, entry in zip(rows, entries, strict=True):
                row.append((1.0, entry))
            continue
        table = _dense(matrix, expression)
        for row, weights in zip(rows, table, strict=True):
            row.extend((float(weights[place]), entries[place]) for place in np.flatnonzero(weights).tolist())
    return [combined(row) for row in rows]


def _dense(matrix: Any, expression: Expression) -> Floats:
    found = materialised(matrix, expression)
    return np.asarray(found if isinstance(found, np.ndarray) else found.toarray())


def _directions(
    parts: Split, atoms: dict[int, Atom], forms: dict[int, LinearForm]
) -> dict[int, tuple[list[bool], list[bool]]]:
    """For each entry of each atom, whether the objective may gain by more of it, and by less."""
    up = {key: np.zeros(atom.size, dtype=bool) for key, atom in atoms.items()}
    down = {key: np.zeros(atom.size, dtype=bool) for key, atom in atoms.items()}
    for term in parts.terms:
        up[id(term.atom)] |= term.coefficients > 0.0
        down[id(term.atom)] |= term.coefficients < 0.0
    for key, atom in reversed(atoms.items()):
        for position, arg in enumerate(atom.args):
            steady = atom.monotonicity(position)
            more = up[key].any() and steady is not Monotonicity.DECREASING
            more |= down[key].any() and steady is not Monotonicity.INCREASING
            less = down[key].any() and steady is not Monotonicity.DECREASING
            less |= up[key].any() and steady is not Monotonicity.INCREASING
            for node, matrix in forms[id(arg)].parts:
                if isinstance(node, Variable):
                    continue
                table = np.eye(node.size) if matrix is None else _dense(matrix, arg)
                rises, falls = np.max(table, axis=0) > 0.0, np.min(table, axis=0) < 0.0
                up[id(node)] |= (rises & more) | (falls & less)
                down[id(node)] |= (rises & less) | (falls & more)
    return {key: (up[key].tolist(), down[key].tolist()) for key in atoms}
