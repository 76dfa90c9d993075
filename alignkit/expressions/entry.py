"""A row of the table of atoms: what must be known of an operation before it exists for users, backends and tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from alignkit.expressions.expression import Expression

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """One atom or affine operation.

    Arguments:
        name: the name it is exported by, as `ak.<name>`; or its operator, as `+` and `x[…]`.
        kind: its own curvature, for arguments that are affine.
        formula: what it computes, in a line of plain mathematics.
        example: builds it over an argument of shape (2, 3): what tests and documentation show.
        nodes: the classes of expression that it alone makes; none for a shorthand of other entries.
        function: the public function; None for operators.
    """

    name: str
    kind: Literal["affine", "convex", "concave", "neither"]
    formula: str
    example: Callable[[Expression], Expression]
    nodes: tuple[type[Expression], ...] = field(default=())
    function: Callable[..., Expression] | None = None
