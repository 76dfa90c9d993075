"""Problems and plans in LaTeX: what is maximised, and what it was reduced to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignkit.base.law import BaseLaw
from alignkit.compiler.closeness import KL, Closeness, Wasserstein
from alignkit.compiler.declaration import Declaration
from alignkit.compiler.routes import (
    CONCAVE_PROXIMAL,
    LIPSCHITZ_PROXIMAL,
    MONTE_CARLO,
    ONE_TILT,
    SHIFT,
    TILTS,
    ProblemClass,
)
from alignkit.contracts import Composition
from alignkit.expressions import Constraint, Expression, Parameter, as_expression, expectations
from alignkit.expressions.latex import constraint_latex, latex, latex_name, latex_number
from alignkit.transport.costs import Cost, SquaredEuclidean

if TYPE_CHECKING:
    from alignkit.compiler.plan import Plan

__all__ = ["ProblemFormula", "plan_latex", "problem_formula", "problem_latex"]


@dataclass(frozen=True)
class ProblemFormula:
    """A problem in LaTeX, for mathematics mode, in parts that may stand on lines of their own.

    Arguments:
        objective: what the aligned law maximises.
        conditions: what it is subject to.
        given: the base law, and the cost under Wasserstein closeness.
    """

    objective: str
    conditions: tuple[str, ...]
    given: tuple[str, ...]

    def __str__(self) -> str:
        subject = "" if not self.conditions else r"\; \text{ subject to }\; " + r",\; ".join(self.conditions)
        return r",\quad ".join([self.objective + subject, *self.given])


def problem_latex(
    reward: Expression, base: BaseLaw, closeness: Closeness, constraints: Sequence[Constraint] = ()
) -> str:
    """What the aligned law maximises, and what it is subject to, on one line for mathematics mode."""
    return str(problem_formula(reward, base, closeness, constraints))


def problem_formula(
    reward: Expression, base: BaseLaw, closeness: Closeness, constraints: Sequence[Constraint] = ()
) -> ProblemFormula:
    """What the aligned law maximises, and what it is subject to.

    Arguments:
        reward: as the user wrote it, with its utilities of expectations.
        base: the base law p.
        closeness: the user's choice.
        constraints: on expectations.
    """
    sides = [reward, *(constraint.left for constraint in constraints)]
    x = latex_name(next(_names(sides)))
    given = [rf"p = {latex_name(base.name)}"]
    conditions = [constraint_latex(constraint) for constraint in constraints]
    if isinstance(closeness, KL):
        distance = r"\mathrm{KL}\left(q \,\|\, p\right)"
    else:
        distance = r"W_{c}\left(q,\, p\right)"
        ndim = len(base.shape)
        given.append(rf"c\left({x},\, {x}'\right) = {_cost(closeness.cost, x, ndim)}")
    if closeness.radius is not None:
        conditions = [rf"{distance} \le {latex(as_expression(closeness.radius))}", *conditions]
    gained = rf"\mathbb{{E}}_{{{x} \sim q}}\left[{latex(reward)}\right]"
    priced = "" if closeness.weight is None else rf" - {_price(closeness.weight)}{distance}"
    return ProblemFormula(rf"\max_{{q}}\; {gained}{priced}", tuple(conditions), tuple(given))


def _price(weight: float | Parameter) -> str:
    text = latex(as_expression(weight))
    return "" if text == "1" else rf"{text}\, "


def _names(expressions: Sequence[Expression]) -> Iterator[str]:
    """The names of the variables in expressions and in their expectations."""
    for expression in expressions:
        inside = [expression, *(leaf.expression for leaf in expectations(expression))]
        yield from (variable.name for one in inside for variable in one.variables())


def _cost(cost: Cost, x: str, ndim: int) -> str:
    if isinstance(cost, SquaredEuclidean):
        return rf"\frac{{1}}{{2}} \left\|{x} - {x}'\right\|_{{{'F' if ndim > 1 else '2'}}}^{{2}}"
    return latex_name(type(cost).__name__)


def plan_latex(plan: Plan, declared: Declaration | None = None) -> str:
    """The reduced problem, for mathematics mode: a line for the composition, for each step of the reduction, for f.

    Arguments:
        plan: of the reward of draws.
        declared: what was asked of the law itself, where that is known: its multipliers tilt the law too.
    """
    (variable,) = plan.diagnosis.reward.variables()
    name = latex_name(variable.name)
    vector = name if variable.ndim <= 1 else "v" if name != "v" else "u"
    reduced = _Reduced(
        plan.composition,
        r"\lambda" if plan.closeness.weight is None else latex(as_expression(plan.closeness.weight)),
        vector,
        0 if declared is None else declared.multipliers,
    )
    flattened = "" if vector == name else rf",\quad {vector} = \operatorname{{vec}}\left({name}\right)"
    lines = [rf"r\left({name}\right) &= {reduced.reward}{flattened}"]
    steps = STEPS.get(plan.chosen.terminal.problems)
    lines += [] if steps is None else steps(reduced)
    if reduced.multipliers:
        expected = rf"\mathbb{{E}}_{{{vector} \sim q}}\left[B {vector}\right]"
        lines.append(rf"\eta &\text{{: the multipliers of the expectations }}\; {expected}")
    if isinstance(plan.closeness, Wasserstein) and plan.closeness.radius is not None:
        lines.append(_weight_within(latex(as_expression(plan.closeness.radius)), vector))
    if plan.composition.nonlinear is not None:
        lines.append(rf"f\left(w\right) &= {latex(plan.composition.nonlinear)}")
    return "".join([r"\begin{aligned} ", r" \\ ".join(lines), r" \end{aligned}"])


def _weight_within(radius: str, x: str) -> str:
    """λ of a radius."""
    best = rf"\sup_{{y}}\; r\left(y\right) - \lambda\, c\left({x},\, y\right)"
    value = rf"\lambda\, {radius} + \mathbb{{E}}_{{{x} \sim p}}\left[{best}\right]"
    return rf"\lambda &= \operatorname*{{arg\,min}}_{{\lambda \ge 0}}\; {value}"


@dataclass(frozen=True, eq=False)
class _Reduced:
    """The pieces of which the steps of a reduction are written.

    Arguments:
        composition: the reward as f(Qx) + ⟨g, x⟩ + c.
        weight: λ, written.
        x: the variable flattened, written.
        multipliers: how many there are, of the expectations E_q[Bx].
    """

    composition: Composition
    weight: str
    x: str
    multipliers: int

    @property
    def projected(self) -> str:
        """Qx."""
        subspace = self.composition.subspace
        if subspace.is_identity:
            return self.x
        return rf"\underset{{{self.composition.dimension}\times {self.composition.ambient}}}{{Q}} {self.x}"

    @property
    def linear(self) -> str:
        """g; empty where it is 0."""
        return rf"\underset{{{self.composition.ambient}}}{{g}}" if self.composition.linear.any() else ""

    @property
    def shift(self) -> str:
        """g/λ, under multipliers (g + Bᵀη)/λ; empty where it is 0."""
        if not self.multipliers:
            return self.linear and _over_weight(self.linear, self.weight)
        pushed = rf"\underset{{{self.multipliers}\times {self.composition.ambient}}}{{B}}^{{\top}} \eta"
        if self.linear:
            pushed = f"{self.linear} + {pushed}"
            pushed = pushed if self.weight == "1" else rf"\left({pushed}\right)"
        return _over_weight(pushed, self.weight)

    @property
    def reward(self) -> str:
        """f(Qx) + ⟨g, x⟩ + c, without what is zero."""
        constant = self.composition.constant
        terms = [] if self.composition.nonlinear is None else [rf"f\left({self.projected}\right)"]
        if self.linear:
            terms.append(rf"\left\langle {self.linear},\, {self.x}\right\rangle")
        if not terms:
            return latex_number(constant)
        signed = "" if constant == 0.0 else f"{' - ' if constant < 0.0 else ' + '}{latex_number(abs(constant))}"
        return " + ".join(terms) + signed


def _tilt(reduced: _Reduced) -> list[str]:
    x = reduced.x
    exponent = rf"\left\langle \theta,\, {x}\right\rangle"
    return [
        rf"q\left({x}\right) &\propto p\left({x}\right) \exp\left({exponent}\right),"
        rf"\quad \theta = {reduced.shift or '0'}",
    ]


def _mixture(reduced: _Reduced) -> list[str]:
    x = reduced.x
    shift = rf" + \left\langle {reduced.shift},\, {x}\right\rangle" if reduced.shift else ""
    exponent = rf"\left\langle \theta,\, {reduced.projected}\right\rangle{shift}"
    bound = rf"\exp\left({_over_weight('f', reduced.weight)}\left(w\right)\right)"
    return [
        rf"q\left({x}\right) &\propto p\left({x}\right) \int \exp\left({exponent}\right) d\mu\left(\theta\right),\quad "
        rf"\int \exp\left\langle \theta,\, w\right\rangle d\mu\left(\theta\right) \geq {bound}",
    ]


def _target(reduced: _Reduced) -> list[str]:
    x = reduced.x
    exponent = rf"{_over_weight('r', reduced.weight)}\left({x}\right)"
    return [rf"q\left({x}\right) &\propto p\left({x}\right) \exp\left({exponent}\right)"]


def _over_weight(name: str, weight: str) -> str:
    return name if weight == "1" else rf"\frac{{1}}{{{weight}}} {name}"


def _shift(reduced: _Reduced) -> list[str]:
    moved = f"{reduced.x} + {reduced.shift}" if reduced.shift else reduced.x
    return [rf"T\left({reduced.x}\right) &= {moved}"]


def _proximal(reduced: _Reduced) -> list[str]:
    moved = "z"
    if not reduced.composition.subspace.is_identity:
        shift = f" + {reduced.shift}" if reduced.shift else ""
        moved = rf"{reduced.x}{shift} + Q^{{\top}} \left(z - Q {reduced.x}\right)"
    distance = rf"\left\|w - {reduced.projected}\right\|_{{2}}^{{2}}"
    return [
        rf"T\left({reduced.x}\right) &= {moved}",
        rf"z &= \operatorname*{{arg\,max}}_{{w}}\; f\left(w\right) - \frac{{{reduced.weight}}}{{2}} {distance}",
    ]


#: How a reduction is written, by the class of problems it ends in; of others only the composition is shown.
STEPS: dict[ProblemClass, Callable[[_Reduced], list[str]]] = {
    ONE_TILT: _tilt,
    TILTS: _mixture,
    MONTE_CARLO: _target,
    SHIFT: _shift,
    CONCAVE_PROXIMAL: _proximal,
    LIPSCHITZ_PROXIMAL: _proximal,
}
