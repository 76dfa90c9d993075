"""HiGHS, by highspy: global optima of mixed-integer linear models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alignkit_pyomo.model import Answer, Model

__all__ = ["solve"]

_FEASIBILITY = 1e-9
_SETTINGS = {
    "output_flag": False,
    "threads": 1,
    "random_seed": 0,
    "primal_feasibility_tolerance": _FEASIBILITY,
    "dual_feasibility_tolerance": _FEASIBILITY,
    "mip_feasibility_tolerance": _FEASIBILITY,
    "mip_rel_gap": 0.0,
}


def solve(model: Model, *, gap: float, floor: float, seconds: float) -> Answer:
    """Maximise a model without relations to global optimality.

    Arguments:
        model: possibly unbounded.
        gap: how far bound and incumbent may lie apart, in units of the objective.
        floor: a value that is known to be reached.
        seconds: the time limit.
    """
    import highspy as module

    highspy: Any = module  # typed in part only
    if not model.is_linear:
        raise ValueError("HiGHS takes linear models, and this one has relations.")
    solver = highspy.Highs()
    for name, value in (_SETTINGS | {"mip_abs_gap": gap, "time_limit": seconds}).items():
        solver.setOptionValue(name, value)
    solver.passModel(_program(model))
    solver.run()
    status, info = solver.getModelStatus(), solver.getInfo()
    statuses = highspy.HighsModelStatus
    is_finished = status == statuses.kOptimal
    has_point = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    values = np.array(solver.getSolution().col_value) if has_point else None
    if model.integers:
        bound = info.mip_dual_bound
    else:
        bound = info.objective_function_value if is_finished else math.inf
    bound = bound if abs(bound) < highspy.kHighsInf else math.inf
    solutions = np.zeros((0, len(model.lower))) if values is None else values[None]
    return Answer(
        max(bound, floor) + model.slack(values, _FEASIBILITY),
        solutions,
        max(1, int(info.mip_node_count)),
        is_finished,
        status in (statuses.kUnbounded, statuses.kUnboundedOrInfeasible),
    )


def _program(model: Model) -> Any:
    """The model as HiGHS takes it, its rows in compressed form."""
    import highspy as module

    highspy: Any = module

    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(model.lower), len(model.rows)
    program.sense_ = highspy.ObjSense.kMaximize
    cost = np.zeros(len(model.lower))
    cost[list(model.objective.terms)] = list(model.objective.terms.values())
    program.col_cost_, program.offset_ = cost, model.objective.constant
    program.col_lower_, program.col_upper_ = np.array(model.lower), np.array(model.upper)
    constants = np.array([linear.constant for linear, _, _ in model.rows])
    program.row_lower_ = np.array([low for _, low, _ in model.rows]) - constants
    program.row_upper_ = np.array([high for _, _, high in model.rows]) - constants
    matrix = program.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.num_col_, matrix.num_row_ = program.num_col_, program.num_row_
    lengths = [len(linear.terms) for linear, _, _ in model.rows]
    matrix.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    matrix.index_ = np.array([place for linear, _, _ in model.rows for place in linear.terms], dtype=np.int32)
    matrix.value_ = np.array([value for linear, _, _ in model.rows for value in linear.terms.values()])
    kinds = [highspy.HighsVarType.kContinuous] * program.num_col_
    for place in model.integers:
        kinds[place] = highspy.HighsVarType.kInteger
    if model.integers:
        program.integrality_ = kinds
    return program
