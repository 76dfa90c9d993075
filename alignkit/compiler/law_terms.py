"""What a problem asks of the law itself, beside the reward of its draws: utilities of expectations, and constraints.

A reward r(x) + U(E[Bx]) is taken apart summand by summand. What is affine in an expectation belongs to r, since E_q of
it is the expectation itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignkit.certificates import KLCertificate, Moment, RadiusPath
from alignkit.compiler.closeness import KL
from alignkit.compiler.phrases import brief, described
from alignkit.compiler.plan import Plan
from alignkit.compiler.summands import summands_of
from alignkit.contracts import Floats, TiltProgram
from alignkit.errors import CurvatureError, ParameterError
from alignkit.estimates import Estimate
from alignkit.expressions import (
    Constraint,
    Expectation,
    Expression,
    Parameter,
    Variable,
    affine_map,
    expectations,
    inner,
    reshape,
    without_expectations,
)
from alignkit.expressions.atom import substitute
from alignkit.expressions.expression import united
from alignkit.tilting.law_program import LawProgram
from alignkit.tilting.law_request import LawFit, LawRequest
from alignkit.tilting.properness import check_proper
from alignkit.tilting.target import TiltTarget

__all__ = [
    "LawTerms",
    "MomentRows",
    "certify_law",
    "checked_constraints",
    "law_request",
    "separate_law_terms",
]


@dataclass(frozen=True, eq=False)
class MomentRows:
    """A block of moments E_q[Bx] that one constraint, or one expectation of a utility, makes.

    Arguments:
        text: as the user wrote it.
        name: of the expectation that is constrained or valued.
        shape: of the constraint or the expectation.
        matrix: B, (size, d).
        offset: what E_q[Bx] is increased by to give left − right, or the expectation, (size,).
        is_bound: whether E_q[Bx] + offset ≤ 0, rather than = 0; of no meaning in a utility.
        sign: −1 where `>=` was turned to `<=`, else 1: B and offset are those of sign·(left − right).
        place: of the constraint among those of the problem; None in a utility.
    """

    text: str
    name: str
    shape: tuple[int, ...]
    matrix: Floats
    offset: Floats
    is_bound: bool = False
    sign: float = 1.0
    place: int | None = None


@dataclass(frozen=True, eq=False)
class LawTerms:
    """A problem's reward of draws, its utility of expectations, and its constraints.

    Arguments:
        reward: r, an expression of the variable alone.
        utility: U as the user wrote it, in expectations alone; None where there is none.
        constraints: as the user gave them.
    """

    reward: Expression
    utility: Expression | None
    constraints: tuple[Constraint, ...]

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked of the law itself."""
        return self.utility is None and not self.constraints

    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in the utility and the constraints, each once."""
        found = [] if self.utility is None else [self.utility]
        sides = [side for constraint in self.constraints for side in (constraint.left, constraint.right)]
        return united((*found, *sides))

    def rows(self) -> tuple[MomentRows, ...]:
        """Blocks of moments at present values of the parameters: the utility's, then equalities, then bounds."""
        valued = [_rows_of(leaf.expression, str(leaf), str(leaf)) for leaf in self._leaves]
        equal: list[MomentRows] = []
        bounded: list[MomentRows] = []
        for place, constraint in enumerate(self.constraints):
            sign = -1.0 if constraint.relation == ">=" else 1.0
            found = _rows_of(sign * constraint.residual, str(constraint), str(constraint.left))
            block = replace(found, is_bound=constraint.relation != "==", sign=sign, place=place)
            (bounded if block.is_bound else equal).append(block)
        return (*valued, *equal, *bounded)

    def program(self, rows: Sequence[MomentRows], *, ridge: float = 0.0) -> LawProgram:
        """The program over the moments of `rows`."""
        count = len(self._leaves)
        valued = sum(block.offset.size for block in rows[:count])
        equal = [-block.offset for block in rows[count:] if not block.is_bound]
        bounded = [-block.offset for block in rows[count:] if block.is_bound]
        nothing = np.zeros(0)
        return LawProgram(
            utility=self._over_moments(rows[:count], valued) if self.utility is not None else None,
            valued=valued,
            equalities=np.concatenate([nothing, *equal]),
            bounds=np.concatenate([nothing, *bounded]),
            ridge=ridge,
        )

    @property
    def _leaves(self) -> tuple[Expectation, ...]:
        return () if self.utility is None else expectations(self.utility)

    def _over_moments(self, rows: Sequence[MomentRows], valued: int) -> Expression:
        assert self.utility is not None
        m = Variable((valued,), name="m")
        known: dict[int, Expression] = {}
        start = 0
        for leaf, block in zip(self._leaves, rows, strict=True):
            moved = m[start : start + leaf.size] + block.offset
            known[id(leaf)] = reshape(moved, leaf.shape)
            start += leaf.size
        return substitute(self.utility, known)


def separate_law_terms(reward: Expression, constraints: tuple[Constraint, ...], shape: tuple[int, ...]) -> LawTerms:
    """Take a reward apart into that of the draws and the utility of the law.

    Arguments:
        reward: as the user wrote it.
        constraints: as `checked_constraints` gave them.
        shape: of the base law.

    Raises:
        CurvatureError: a summand of expectations is not concave, or mixes the variable with an expectation.
        ParameterError: more than one variable.
    """
    variable = _only_variable(reward, constraints)
    if not reward.has_expectation:
        if not reward.depends and constraints:
            # The closest law that meets the constraints: nothing is asked of its draws.
            reward = _nothing(variable, shape) + reward
        return LawTerms(reward, None, constraints)
    drawn: list[Expression] = []
    valued: list[Expression] = []
    for term in summands_of(reward).terms:
        if not term.has_expectation:
            drawn.append(term)
        elif term.is_affine():
            drawn.append(without_expectations(term))
        else:
            _check_utility(term)
            valued.append(term)
    of_draws = sum(drawn[1:], drawn[0]) if drawn else _nothing(variable, shape)
    if not of_draws.depends:
        of_draws = _nothing(variable, shape) + of_draws
    utility = sum(valued[1:], valued[0]) if valued else None
    return LawTerms(of_draws, utility, constraints)


def law_request(
    terms: LawTerms, rows: Sequence[MomentRows], plan: Plan, request: TiltProgram, *, ridge: float
) -> LawRequest:
    """What the tilting floor is asked: the program over the law, with the reward of draws at λ = 1.

    Arguments:
        terms: what is asked of the law.
        rows: its blocks of moments.
        plan: of the reward of draws.
        request: the plan's, whose last direction is g/λ.
        ridge: κ ≥ 0.
    """
    composition, closeness = plan.composition, plan.closeness
    assert isinstance(closeness, KL)
    directions = np.vstack([request.directions[:-1], composition.linear])
    matrices = [block.matrix for block in rows]
    names = [f"{block.name}{_place(block, entry)}" for block in rows for entry in range(block.offset.size)]
    return LawRequest(
        target=TiltTarget(replace(request, directions=directions), composition.nonlinear, 1.0, np.ones(1)),
        rows=np.vstack([np.zeros((0, composition.ambient)), *matrices]),
        program=terms.program(rows, ridge=ridge),
        names=tuple(names),
        weight=None if closeness.weight is None else closeness.present_weight,
        radius=closeness.present_radius,
        check_proper=lambda weight: check_proper(plan.diagnosis.reward, composition, plan.base, weight),
    )


def _place(block: MomentRows, entry: int) -> str:
    if not block.shape:
        return ""
    return f"[{', '.join(str(int(place)) for place in np.unravel_index(entry, block.shape))}]"


def certify_law(fit: LawFit, rows: Sequence[MomentRows], plan: Plan) -> KLCertificate:
    """The certificate of a fitted program over the law.

    Arguments:
        fit: what was fitted.
        rows: the blocks of moments.
        plan: of the reward of draws.
    """
    constant, weight = plan.composition.constant, fit.solution.weight
    moments: list[tuple[int, Moment]] = []
    start = 0
    for position, block in enumerate(rows):
        part = slice(start, start + block.offset.size)
        start = part.stop
        values = np.array([estimate.value for estimate in fit.moments[part]])
        moment = Moment(
            text=block.text,
            achieved=(block.sign * (values + block.offset)).reshape(block.shape),
            standard_error=np.array([one.standard_error for one in fit.moments[part]]).reshape(block.shape),
            dual=(block.sign * fit.solution.multipliers[part]).reshape(block.shape),
            is_constraint=block.place is not None,
        )
        moments.append((len(rows) + position if block.place is None else block.place, moment))
    radius, tried = plan.closeness.present_radius, fit.solution.tried
    plain = fit.fitted.moments.certify(weight, constant, f"{plan.guarantee}; multipliers by a convex dual")
    return replace(
        plain,
        reward_before=_raised(fit.reward_before, constant),
        reward_after=_raised(fit.reward_after, constant),
        kl=fit.kl,
        details=fit.details,
        moments=tuple(moment for _, moment in sorted(moments, key=lambda pair: pair[0])),
        weight=weight,
        path=None if radius is None else RadiusPath.of(radius, tried),
    )


def _raised(estimate: Estimate, constant: float) -> Estimate:
    return Estimate(estimate.value + constant, estimate.standard_error)


def checked_constraints(constraints: object) -> tuple[Constraint, ...]:
    """The constraints of a problem as a tuple.

    Raises:
        ParameterError: something in it is no constraint on an expectation.
    """
    found = (constraints,) if isinstance(constraints, Constraint | bool) else constraints
    if not isinstance(found, list | tuple):
        raise ParameterError(
            f"constraints= takes a list of conditions on expectations, not {constraints!r}.",
            ways_out=["constraints=[ak.E(x[0]) == 1.0]."],
        )
    for position, constraint in enumerate(found):
        if isinstance(constraint, bool | np.bool_):
            raise ParameterError(
                f"constraints[{position}] is {constraint}: a comparison without an expectation in it was evaluated by "
                "Python, as of x[0] == 1, which compares objects and not values.",
                ways_out=["Constrain the law: ak.E(x[0]) == 1."],
            )
        if not isinstance(constraint, Constraint):
            raise ParameterError(
                f"constraints[{position}] is {constraint!r}, not a condition on an expectation.",
                ways_out=["Compare one: ak.E(x[0]) == 1, ak.E(B @ ak.vec(x)) <= b."],
            )
    return tuple(found)


def _only_variable(reward: Expression, constraints: tuple[Constraint, ...]) -> Variable | None:
    found = dict.fromkeys(_variables(reward, constraints))
    if len(found) > 1:
        names = ", ".join(f"{variable} of shape {variable.shape}" for variable in found)
        raise ParameterError(
            f"A problem has one variable, and this has {len(found)}: {names}.",
            expression=str(reward),
            ways_out=("use the same ak.Variable in the reward, in E(…) and in the constraints",),
        )
    return next(iter(found), None)


def _variables(reward: Expression, constraints: tuple[Constraint, ...]) -> Iterator[Variable]:
    yield from reward.variables()
    for leaf in expectations(reward):
        yield from leaf.expression.variables()
    for constraint in constraints:
        yield from constraint.residual.variables()


def _nothing(variable: Variable | None, shape: tuple[int, ...]) -> Expression:
    """0, as an expression of the variable."""
    x = Variable(shape) if variable is None else variable
    return inner(np.zeros(x.shape), x) if x.shape else 0.0 * x


def _check_utility(term: Expression) -> None:
    names = ", ".join(str(leaf) for leaf in expectations(term))
    if term.variables():
        raise CurvatureError(
            f"{brief(term)} mixes the variable with {names}: it depends on the draw and on the law at once, and no "
            "program over the law is known for it.",
            ways_out=(
                "keep functions of draws and functions of expectations in summands of their own",
                "put a number in place of the expectation, and constrain it: E(…) == number",
            ),
            expression=str(term),
        )
    if not term.is_concave():
        raise CurvatureError(
            f"{brief(term)} is {described(term.curvature)} in {names}: {term.curvature_rule} A utility of expectations "
            "has to be concave, as maximising a convex function of the law is hard in the worst case.",
            ways_out=(
                f"average it over draws instead, which is tractable for convex functions: {without_expectations(term)}",
                "constrain the expectation instead: E(…) == number",
            ),
            expression=str(term),
        )


def _rows_of(expression: Expression, text: str, name: str) -> MomentRows:
    found = affine_map(expression)
    matrix = found.matrix
    if hasattr(matrix, "toarray"):
        dense = matrix.toarray()
    elif isinstance(matrix, np.ndarray):
        dense = matrix
    else:
        dense = np.stack([matrix.rmatvec(row) for row in np.eye(expression.size)])
    return MomentRows(text, name, expression.shape, np.asarray(dense, dtype=np.float64), found.offset)
