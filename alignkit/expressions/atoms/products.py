"""The entrywise product of two expressions that both depend on the variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.expressions.affine import of_sign, product_range
from alignkit.expressions.arrays import Array
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.elementwise import square
from alignkit.expressions.curvature import Interval, Monotonicity
from alignkit.expressions.entry import Entry
from alignkit.expressions.expression import PRODUCT, Expression, Printed, enclosed, operations

__all__ = ["product"]


class Product(Atom):
    """a·b, entry by entry: Lipschitz where both factors are and are bounded, and of no curvature."""

    name = "a product of expressions"

    def __init__(self, left: Expression, right: Expression) -> None:
        super().__init__(left.shape, (left, right))

    @property
    def is_atom_convex(self) -> bool:
        """Always false: ab has a saddle at 0."""
        return False

    @property
    def is_atom_concave(self) -> bool:
        """Always false."""
        return False

    def monotonicity(self, position: int) -> Monotonicity:
        """By the sign of the other factor."""
        return of_sign(self.args[1 - position].range)

    def _gain(self, position: int) -> float:
        return self.args[1 - position].range.magnitude.upper

    def _own_range(self) -> Interval:
        return product_range(self.args[0].range, self.args[1].range)

    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        return values[0] * values[1]

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        return [cotangent * values[1], cotangent * values[0]]

    def _format(self, parts: Sequence[Printed]) -> Printed:
        return f"{enclosed(parts[0], PRODUCT)} * {enclosed(parts[1], PRODUCT)}", PRODUCT


def product(left: Expression, right: Expression) -> Expression:
    """The product entry by entry; what `*`, `multiply` and `inner` make of two factors that depend on the variable.

    Arguments:
        left: an expression.
        right: an expression of the same shape.

    Returns:
        square(left) where both are the same object, else a product of unknown curvature.

    Example:
        >>> from alignkit.expressions import Variable
        >>> x = Variable(2)
        >>> str(product(x, x)), str(product(x, x - 1.0))
        ('square(x)', 'x * (x - 1)')
    """
    return square(left) if left is right else Product(left, right)


operations.update(product=product)

ENTRIES: tuple[Entry, ...] = (
    Entry("a * b", "neither", "aᵢ·bᵢ, both depending on x", lambda x: x * (x - 1.0), (Product,)),
)
