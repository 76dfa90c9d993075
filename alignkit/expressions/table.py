"""The table of atoms and affine operations: the one list that exports, documentation, backends and tests read.

A class of expression that is in no row does not exist for them; a test finds it. To add an atom: write its class and
function in the file of its family, and its row in that file's `ENTRIES`.
"""

from __future__ import annotations

from alignkit.expressions import affine, layout, operators, reductions
from alignkit.expressions.atoms import (
    curves,
    distances,
    elementwise,
    exponential,
    lipschitz,
    norms,
    order,
    piecewise,
    powers,
    products,
    quadratic,
)
from alignkit.expressions.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES: tuple[Entry, ...] = tuple(
    row
    for family in (
        affine,
        layout,
        reductions,
        operators,
        elementwise,
        exponential,
        powers,
        norms,
        order,
        quadratic,
        curves,
        piecewise,
        distances,
        lipschitz,
        products,
    )
    for row in family.ENTRIES
)
