"""Kinds of expressions: variables, constants, parameters, and every row of the table of atoms and operations.

Nodes are made by their constructors, whose arguments are attributes of the node or its own arguments.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from alignkit.expressions import ENTRIES, Constant, Constraint, Expectation, Expression, Interval, Parameter, Variable
from alignkit.expressions.atoms.lipschitz import UserFunction
from alignkit.saving.records import Kind, kind_of_dataclass

__all__ = ["expression_kinds"]

#: The place among a node's arguments of what its constructor calls so.
_PLACES = {"arg": 0, "left": 0, "right": 1, "divisor": 1}
#: What a node calls an argument of its constructor.
_CALLED: dict[tuple[type[Expression], str], str] = {
    (UserFunction, "constant"): "declared_lipschitz",
    (UserFunction, "bounds"): "declared_range",
}


def expression_kinds() -> list[Kind]:
    """A kind for each class of expression of alignkit's own, and for constraints."""
    made: list[type[Expression]] = [Expectation, *(node for row in ENTRIES for node in row.nodes)]
    return [
        Kind("expression.Variable", Variable, _of_variable, _variable),
        Kind("expression.Constant", Constant, lambda one: {"value": one.array}, lambda parts: Constant(parts["value"])),
        Kind("expression.Parameter", Parameter, _of_parameter, lambda parts: Parameter(**parts)),
        *(_by_constructor(one) for one in dict.fromkeys(made)),
        kind_of_dataclass("expression.Interval", Interval),
        kind_of_dataclass("expression.Constraint", Constraint),
    ]


def _by_constructor(made: type[Expression]) -> Kind:
    names = [name for name in inspect.signature(made.__init__).parameters if name != "self"]

    def part(node: Any, name: str) -> Any:
        if name in {"args", "terms"}:
            return node.args
        if name in _PLACES and _PLACES[name] < len(node.args):
            return node.args[_PLACES[name]]
        return getattr(node, _CALLED.get((made, name), name))

    return Kind(
        f"expression.{made.__name__}",
        made,
        lambda node: {name: part(node, name) for name in names},
        lambda parts: made(**parts),
    )


def _of_variable(variable: Variable) -> dict[str, Any]:
    return {
        "shape": variable.shape,
        "name": variable.name,
        "lower": variable.range.lower,
        "upper": variable.range.upper,
    }


def _variable(parts: dict[str, Any]) -> Variable:
    variable = Variable(parts["shape"], parts["name"])
    bounds = Interval(float(parts["lower"]), float(parts["upper"]))
    return variable if bounds.is_free else variable._within(bounds)


def _of_parameter(parameter: Parameter) -> dict[str, Any]:
    signs = parameter.range
    return {
        "shape": parameter.shape,
        "value": None if parameter.is_unset else parameter.dense(),
        "nonneg": signs.lower > -math.inf,
        "nonpos": signs.upper < math.inf,
        "name": parameter.name,
    }
