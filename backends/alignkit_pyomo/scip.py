"""SCIP, by PySCIPOpt: global optima of models with nonlinear relations.

PySCIPOpt itself and not Pyomo's interface to it, which knows neither abs nor atan, makes one nonlinear constraint of
the objective, and redirects the file descriptors of the whole process. A sum of three maxima in two dimensions, written
with √(a²), it left unsolved after 20 s; here it takes 0.1 to 0.3 s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from alignkit_pyomo.model import Answer, Model, Relation

__all__ = ["FUNCTIONS", "solve"]

#: SoPlex tries a thousandth of these, takes nothing below 1e-10, and says so on the user's terminal.
_FEASIBILITY = 1e-7
#: Relations are multiplied by no less and no more than this.
_LIGHTEST, _HEAVIEST = 1e-3, 1e7
#: Nodes after which branching on the coordinates is given up: with kinks and near ties it sometimes comes to no end.
_NODES = 5000
#: How many of the solutions it found are worth evaluating.
_SOLUTIONS = 5
_SETTINGS = {
    # SCIP's log goes through a pipe that can fill up and stop it.
    "display/verblevel": 0,
    "misc/catchctrlc": False,
    "numerics/feastol": _FEASIBILITY,
    "numerics/dualfeastol": _FEASIBILITY,
    "constraints/nonlinear/tightenlpfeastol": False,
    # Independent components would each be solved to a gap of 0.
    "constraints/components/maxprerounds": 0,
    "constraints/components/propfreq": -1,
    "limits/gap": 0.0,
}


def _entropy(module: Any, inputs: list[Any], _numbers: Any) -> Any:
    return -inputs[0] * module.log(inputs[0])


def _tangent(module: Any, inputs: list[Any], output: Any) -> tuple[Any, Any]:
    """sin t = a·cos t, which is t = arctan a for |t| < π/2."""
    return module.sin(output), inputs[0] * module.cos(output)


def _sum_of_exponentials(module: Any, inputs: list[Any], output: Any) -> Any:
    """Σ exp(a − t), which is 1 at t = log Σ exp a and needs no numbers out of range."""
    return module.quicksum(module.exp(entry - output) for entry in inputs)


def _quadratic(module: Any, inputs: list[Any], numbers: Any) -> Any:
    return module.quicksum(weight * (inputs[row] * inputs[column]) for row, column, weight in numbers)


def _p_norm(module: Any, inputs: list[Any], exponent: Any) -> Any:
    return module.quicksum(abs(entry) ** exponent for entry in inputs) ** (1.0 / exponent)


def _product_of_powers(_module: Any, inputs: list[Any], numbers: Any) -> Any:
    return math.prod(entry**weight for entry, weight in zip(inputs, numbers, strict=True))


#: From the kind of a relation to φ, as a function of (pyscipopt, inputs, numbers).
FUNCTIONS: dict[str, Callable[[Any, list[Any], Any], Any]] = {
    "exp": lambda module, inputs, _: module.exp(inputs[0]),
    "log": lambda module, inputs, _: module.log(inputs[0]),
    "entr": _entropy,
    "sqrt": lambda module, inputs, _: module.sqrt(inputs[0]),
    "sin": lambda module, inputs, _: module.sin(inputs[0]),
    "cos": lambda module, inputs, _: module.cos(inputs[0]),
    "sigmoid": lambda module, inputs, _: 1.0 / (1.0 + module.exp(-inputs[0])),
    "square": lambda module, inputs, _: inputs[0] * inputs[0],
    "power": lambda module, inputs, exponent: inputs[0] ** exponent,
    "product": lambda module, inputs, _: inputs[0] * inputs[1],
    "quadratic": _quadratic,
    "p-norm": _p_norm,
    "product of powers": _product_of_powers,
    "norm": lambda module, inputs, _: module.sqrt(module.quicksum(entry * entry for entry in inputs)),
}


def solve(model: Model, *, gap: float, floor: float, seconds: float) -> Answer:
    """Maximise a model to global optimality.

    Arguments:
        model: with a finite optimum.
        gap: how far bound and incumbent may lie apart, in units of the objective.
        floor: a value that is known to be reached.
        seconds: the time limit.
    """
    begun = time.perf_counter()
    first = _solve(model, gap, floor, seconds, along_coordinates=True)
    left = seconds - (time.perf_counter() - begun)
    if first.is_finished or first.nodes < _NODES or left <= 0.0:
        return first
    second = _solve(model, gap, floor, left, along_coordinates=False)
    return Answer(
        min(first.bound, second.bound),
        np.concatenate([second.solutions, first.solutions]),
        first.nodes + second.nodes,
        second.is_finished,
        second.is_unbounded,
    )


def _solve(model: Model, gap: float, floor: float, seconds: float, *, along_coordinates: bool) -> Answer:
    """Solve with few nodes that branch on the coordinates, or with any number on what SCIP chooses."""
    import pyscipopt

    scip = pyscipopt.Model()
    scip.hideOutput()
    for name, value in (_SETTINGS | {"limits/absgap": gap, "limits/time": seconds}).items():
        scip.setParam(name, value)
    integers = set(model.integers)
    columns = [
        scip.addVar(
            lb=None if math.isinf(low) else low,
            ub=None if math.isinf(high) else high,
            vtype="B" if place in integers else "C",
        )
        for place, (low, high) in enumerate(zip(model.lower, model.upper, strict=True))
    ]
    if along_coordinates:
        # Whatever bends, it bends along the coordinates: with k of them there are fewer boxes than with all columns.
        for column in columns[: model.coordinates]:
            scip.chgVarBranchPriority(column, 1)
        scip.setParam("limits/totalnodes", _NODES)

    def written(terms: dict[int, float]) -> Any:
        return pyscipopt.quicksum(coefficient * columns[place] for place, coefficient in terms.items())

    for linear, low, high in model.rows:
        _keep(scip, written(linear.terms), low - linear.constant, high - linear.constant)
    for relation in model.relations:
        _relate(scip, pyscipopt, relation, columns)
    scip.setObjective(written(model.objective.terms), "maximize")
    constant = model.objective.constant
    # Half the gap below what is reached, so that an optimum at the floor is found.
    scip.setObjlimit(floor - 0.5 * gap - constant)
    scip.optimize()
    status = scip.getStatus()
    best = [np.array([scip.getSolVal(one, column) for column in columns]) for one in scip.getSols()[:_SOLUTIONS]]
    bound = floor if status == "infeasible" else max(floor, scip.getDualbound() + constant)
    bound = math.inf if bound >= scip.infinity() else bound
    return Answer(
        bound + model.slack(best[0] if best else None, _FEASIBILITY),
        np.array(best).reshape(-1, len(columns)),
        int(scip.getNTotalNodes()),
        status in ("optimal", "gaplimit", "infeasible"),
        status in ("unbounded", "inforunbd"),
    )


def _keep(scip: Any, linear: Any, low: float, high: float) -> None:
    if low == high:
        scip.addCons(linear == low)
        return
    if math.isfinite(low):
        scip.addCons(linear >= low)
    if math.isfinite(high):
        scip.addCons(linear <= high)


def _relate(scip: Any, module: Any, relation: Relation, columns: list[Any]) -> None:
    inputs, output = [columns[place] for place in relation.inputs], columns[relation.output]
    if relation.kind == "arctan":
        # Increasing in t on either side, so that the relation between t and φ is the one between the sides.
        left, right = _tangent(module, inputs, output)
    elif relation.kind == "log_sum_exp":
        left, right = 1.0, _sum_of_exponentials(module, inputs, output)
    elif relation.kind == "square over":
        left, right = output * inputs[-1], module.quicksum(entry * entry for entry in inputs[:-1])
    else:
        left, right = output, FUNCTIONS[relation.kind](module, inputs, relation.numbers)
    weight = min(max(relation.weight, _LIGHTEST), _HEAVIEST)
    if relation.at_most and relation.at_least:
        scip.addCons(weight * (left - right) == 0)
    elif relation.at_most:
        scip.addCons(weight * (left - right) <= 0)
    else:
        scip.addCons(weight * (left - right) >= 0)
