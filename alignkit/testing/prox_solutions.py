"""What is asked of one answer of a proximal solver: shapes, bounds, and what it says beside the maximiser."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np

from alignkit.contracts import Floats, ProxSession, ProxSolution, SparseRows
from alignkit.testing.conformance import Breach, expect
from alignkit.testing.prox_example import ProxExample

__all__ = [
    "answer",
    "arrays_of",
    "expect_bound",
    "expect_displacement",
    "expect_same",
    "expect_ties",
    "expect_value",
    "first",
    "picked",
    "reached",
    "shown",
]

_EPS = float(np.finfo(np.float64).eps)
#: How far the answers of one solver to one row may lie apart where it gives no bound, relative to the objective.
_LOOSE = 1e-4
#: Operations that may each round z = v + Rδ, about.
_OPERATIONS = 64


def answer(session: ProxSession, points: Floats, progress: Any = None) -> ProxSolution:
    """Solve, with copies of rows and answers, so that what a session does to them spoils nothing else."""
    solution = session.solve(points.copy(), progress)
    expect(
        isinstance(solution, ProxSolution),
        f"solve returned a {type(solution).__name__}, not an alignkit.contracts.ProxSolution",
    )
    _expect_shapes(solution, *points.shape)
    return copy.deepcopy(solution)


def arrays_of(solution: ProxSolution) -> dict[str, Any]:
    """The arrays of a solution by name; those of sparse displacements too."""
    found = {field.name: getattr(solution, field.name) for field in fields(solution)}
    sparse = found["displacement"]
    if isinstance(sparse, SparseRows):
        found |= {"displacement": sparse.amounts, "coordinates of the displacement": sparse.coordinates}
    return {name: values for name, values in found.items() if values is not None}


def picked(solution: ProxSolution, chosen: Any) -> ProxSolution:
    """Some rows of a solution."""
    parts = {field.name: getattr(solution, field.name) for field in fields(solution)}
    rows: dict[str, Any] = {
        name: part.rows(chosen) if isinstance(part, SparseRows) else part[chosen]
        for name, part in parts.items()
        if part is not None
    }
    return ProxSolution(**rows)


def reached(example: ProxExample, solution: ProxSolution) -> tuple[Floats, Floats]:
    """The objective at an answer and what float64 rounds off it, (n,) each."""
    z, step = solution.maximiser, _dense(example, solution)
    return example.objective(z, step), example.rounding(z, step)


def expect_bound(example: ProxExample, solution: ProxSolution) -> None:
    """Raise a `Breach` unless every gap is at least what the objective lacks."""
    objective, rounding = reached(example, solution)
    missing = example.supremum - objective
    bad = ~(missing <= solution.gap + rounding)
    if bad.any():
        row = first(bad)
        raise Breach(
            f"{bad.sum()} of {len(bad)} rows lack more than their gaps: row {row}, v = {shown(example.points[row])}, "
            f"got z = {shown(solution.maximiser[row])}, whose objective lacks {missing[row]:.6g} to that of "
            f"{shown(example.maximiser[row])} ({example.source}), with a gap of {solution.gap[row]:.6g}",
            row=row,
            missing=missing[row],
            gap=solution.gap[row],
        )


def expect_same(example: ProxExample, one: ProxSolution, other: ProxSolution, found: str) -> None:
    """Raise a `Breach` unless two answers to the same rows differ by no more than their gaps explain."""
    slack, objectives = [], []
    for solution in (one, other):
        objective, rounding = reached(example, solution)
        loose = _LOOSE * np.maximum(1.0, np.where(np.isfinite(objective), np.abs(objective), 1.0))
        slack.append(np.where(np.isfinite(solution.gap), solution.gap, loose) + rounding)
        objectives.append(objective)
    if example.strength > 0:
        # A point whose objective lacks ε lies within √(2ε/μ) of the one maximiser.
        difference = np.linalg.norm(one.maximiser - other.maximiser, axis=1)
        allowed = sum(np.sqrt(2.0 * part / example.strength) for part in slack)
    else:
        difference, allowed = np.abs(objectives[0] - objectives[1]), slack[0] + slack[1]
    bad = ~one.unfinished & ~other.unfinished & ~(difference <= allowed)
    if bad.any():
        row = first(bad)
        raise Breach(
            f"{found}: for v = {shown(example.points[row])} once z = {shown(one.maximiser[row])} and once "
            f"z = {shown(other.maximiser[row])}",
            row=row,
            difference=difference[row],
        )


def expect_value(example: ProxExample, solution: ProxSolution) -> None:
    """Raise a `Breach` unless the value given is f of the maximiser given, up to rounding."""
    assert solution.value is not None
    _expect_array("value", solution.value, (len(example.points),), "float64")
    right = example.value(solution.maximiser)
    with np.errstate(invalid="ignore"):
        error = np.where(solution.value == right, 0.0, np.abs(solution.value - right))
    bad = ~(error <= reached(example, solution)[1])
    if bad.any():
        row = first(bad)
        raise Breach(
            f"the value of row {row} is {solution.value[row]:.17g}, and f(z) is {right[row]:.17g} at "
            f"z = {shown(solution.maximiser[row])}",
            row=row,
            value=solution.value[row],
            right=right[row],
        )


def expect_ties(example: ProxExample, solution: ProxSolution) -> None:
    """Raise a `Breach` unless ties are marked where they surely are, and not where they cannot be."""
    count = len(example.points)
    if solution.evaluations is not None:
        _expect_array("evaluations", solution.evaluations, (count,), "int64")
        negative = solution.evaluations < 0
        expect(not negative.any(), f"row {first(negative)} took {solution.evaluations.min(initial=0)} evaluations")
    if solution.tied is None:
        return
    _expect_array("tied", solution.tied, (count,), "bool")
    if example.strength > 0:
        row = first(solution.tied)
        expect(
            not solution.tied.any(),
            f"row {row}, v = {shown(example.points[row])}, is called tied, and its objective is strictly concave",
            row=row,
        )
    if example.is_tied is not None:
        missed = example.is_tied(example.points) & ~solution.tied & ~solution.unfinished
        row = first(missed)
        expect(
            not missed.any(),
            f"row {row}, v = {shown(example.points[row])}, has another maximiser than z = "
            f"{shown(solution.maximiser[row])}, and is not called tied",
            row=row,
        )


def expect_displacement(example: ProxExample, solution: ProxSolution) -> None:
    """Raise a `Breach` unless δ is given exactly where the penalty is on it, and z = v + Rδ up to rounding."""
    given = solution.displacement
    if example.displacement is None:
        expect(given is None, f"a {type(given).__name__} of displacements is given, though the penalty is on z")
        return
    step, rows = _dense(example, solution), example.displacement.rows
    if isinstance(given, SparseRows):
        _expect_entries_apart(given)
    # What is summed: the sizes of v and of the products in Rδ.
    size = np.abs(example.points) + (np.abs(step) if rows is None else np.abs(step) @ np.abs(rows).T)
    error = np.abs(solution.maximiser - example.moved(step))
    bad = ~(error <= _OPERATIONS * _EPS * size).all(axis=1)
    if bad.any():
        row = first(bad)
        raise Breach(
            f"for row {row}, z = {shown(solution.maximiser[row])} and v + Rδ = {shown(example.moved(step)[row])} "
            f"differ by {error[row].max():.3g}",
            row=row,
            difference=error[row].max(),
        )


def first(bad: Any) -> int:
    """The first row marked, 0 where none is."""
    return int(np.argmax(bad)) if len(bad) else 0


def shown(values: Floats) -> str:
    """Numbers as messages show them."""
    return np.array2string(values, precision=6, suppress_small=True, max_line_width=1000, threshold=8)


def _expect_shapes(solution: ProxSolution, rows: int, dimension: int) -> None:
    """Raise a `Breach` unless a solution has the shapes and types of n rows in k dimensions."""
    for name, wanted, kind in (
        ("maximiser", (rows, dimension), "float64"),
        ("gap", (rows,), "float64"),
        ("unfinished", (rows,), "bool"),
    ):
        _expect_array(name, getattr(solution, name), wanted, kind)
    infinite = ~np.isfinite(solution.maximiser).all(axis=1)
    if infinite.any():
        raise Breach(f"the maximiser of row {first(infinite)} is {solution.maximiser[first(infinite)]}")
    wrong = ~(solution.gap >= 0.0)
    if wrong.any():
        raise Breach(f"the gap of row {first(wrong)} is {solution.gap[first(wrong)]}")


def _expect_array(name: str, found: Any, shape: tuple[int, ...], kind: str) -> None:
    expect(isinstance(found, np.ndarray), f"{name} is a {type(found).__name__}, not a numpy array")
    expect(
        found.shape == shape and found.dtype == kind,
        f"{name} is {found.dtype} of shape {found.shape}, not {kind} of shape {shape}",
    )


def _dense(example: ProxExample, solution: ProxSolution) -> Any:
    """δ as an array (n, m), after a look at what was given; None where the penalty is on z."""
    if example.displacement is None:
        return None
    given, size, count = solution.displacement, example.displacement.size, len(example.points)
    expect(given is not None, "no displacement is given, though the penalty is on it")
    if not isinstance(given, SparseRows):
        _expect_array("displacement", given, (count, size), "float64")
        return given
    width = np.shape(given.amounts)[-1] if np.ndim(given.amounts) == 2 else 0
    _expect_array("amounts of the displacement", given.amounts, (count, width), "float64")
    _expect_array("coordinates of the displacement", given.coordinates, (count, width), "int64")
    outside = (given.coordinates < 0) | (given.coordinates >= size)
    expect(not outside.any(), f"coordinates of the displacement are not all in 0 … {size - 1}")
    return given.dense(size)


def _expect_entries_apart(given: SparseRows) -> None:
    """Raise a `Breach` when two entries of a row that are not 0 have one coordinate: h is taken of the entries."""
    for row, (places, amounts) in enumerate(zip(given.coordinates, given.amounts, strict=True)):
        used = places[amounts != 0.0]
        expect(len(set(used.tolist())) == len(used), f"row {row} has two amounts for one coordinate of {used}", row=row)
