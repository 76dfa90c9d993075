"""The proximal problems that `prox` times: rewards of a few rows of A, drawn once, with rows x to move."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

import alignkit as ak
from alignkit.compiler.composition import compose
from alignkit.contracts import Composition, ProxProblem
from alignkit.transport.costs import Cost
from alignkit.transport.reduction import reduce_transport

Floats = NDArray[np.float64]

#: The share of variance that correlated rows of A have in common.
COMMON = 0.9


@dataclass(frozen=True, eq=False)
class Cell:
    """One problem at one size.

    Arguments:
        name: P1 … P7.
        d, k, n: entries of x, rows of A, rows to move.
        weight: λ.
        correlated: whether the rows of A point nearly the same way.
        steepness: length of the slopes of affine pieces, about.
    """

    name: str
    d: int
    k: int
    n: int
    weight: float = 1.0
    correlated: bool = False
    steepness: float = 1.0
    cost: Cost = field(default_factory=ak.costs.SquaredEuclidean)

    @property
    def title(self) -> str:
        extra = (
            " corr."
            if self.correlated
            else " steep"
            if self.steepness != 1.0
            else f" λ={self.weight:g}"
            if self.weight != 1.0
            else ""
        )
        return f"{self.name}{extra}"

    @cached_property
    def _random(self) -> np.random.Generator:
        return np.random.default_rng([int(self.name[1]), self.d, self.k])

    @cached_property
    def rows(self) -> Floats:
        """A, (k, d), of unit rows about."""
        found = self._random.normal(size=(self.k, self.d))
        if self.correlated:
            found = math.sqrt(1 - COMMON) * found + math.sqrt(COMMON) * self._random.normal(size=self.d)
        return np.asarray(found / math.sqrt(self.d))

    @cached_property
    def target(self) -> Floats:
        """t, (k,)."""
        return self._random.normal(size=self.k)

    @cached_property
    def pieces(self) -> tuple[Floats, Floats]:
        """The slopes over Ax of affine pieces, of mean zero so that no linear part is left, and their offsets."""
        count = 16 if self.name == "P3" else self.k + 1
        slopes = self._random.normal(size=(count, self.k))
        if self.name == "P3":
            slopes *= self.steepness / math.sqrt(self.k)
        return slopes - slopes.mean(axis=0), self._random.normal(size=count)

    @cached_property
    def reward(self) -> Any:
        """r, of x."""
        x = ak.Variable(self.d)
        return self.declared(x, ak)

    def declared(self, x: Any, language: Any) -> Any:
        """r as an expression of alignkit, or of cvxpy: both have these atoms."""
        norm1 = language.norm1
        if self.name == "P6":
            return -0.5 * norm1(language.diff(x))
        seen = self.rows @ x
        if self.name in ("P1", "P3"):
            slopes, offsets = self.pieces
            pieces = (slopes @ self.rows) @ x + offsets
            return -language.log_sum_exp(2.0 * pieces) if self.name == "P1" else language.min(pieces)
        if self.name == "P4":
            return -0.5 * language.sum_squares(np.sqrt(1.0 + np.arange(self.k))[:, None] * self.rows @ x)
        return -norm1(seen - self.target)

    @cached_property
    def composition(self) -> Composition:
        return compose(self.reward)

    @cached_property
    def problem(self) -> ProxProblem:
        """What backends are asked."""
        found = reduce_transport(self.composition, self.weight, cost=self.cost, rows=self.n)
        assert found is not None
        return found

    def draw(self) -> NDArray[np.float32]:
        """x, (n, d); standard normal, a walk where its differences are what matters."""
        random = np.random.default_rng(1)
        rows = random.standard_normal((self.n, self.d), dtype=np.float32)
        if self.name == "P6":
            rows = np.cumsum(0.1 * rows, axis=1, dtype=np.float32) + 0.3 * random.standard_normal(
                rows.shape, dtype=np.float32
            )
        return rows

    def objective(self, x: NDArray[Any], y: NDArray[Any]) -> Floats:
        """r(y) − λ·c(x, y), in full dimension and float64."""
        wide_x, wide_y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return np.asarray(self.reward.value(wide_y).reshape(-1) - self.weight * self.cost.value(wide_x, wide_y))

    def solve_by_cvxpy(self, x: NDArray[Any]) -> tuple[Floats, Floats]:
        """A loop over rows in full dimension: y and the optimal values; compiled once."""
        point, moved = cp.Parameter(self.d), cp.Variable(self.d)
        distance = (
            cp.norm1(moved - point) if isinstance(self.cost, ak.costs.L1) else 0.5 * cp.sum_squares(moved - point)
        )
        program = cp.Problem(cp.Maximize(self.declared(moved, cp) - self.weight * distance))
        found, values = np.empty(x.shape), np.empty(len(x))
        for at, row in enumerate(np.asarray(x, np.float64)):
            point.value = row
            values[at] = program.solve(solver="CLARABEL")
            found[at] = moved.value
        return found, values


def _cells() -> tuple[Cell, ...]:
    small = 10_000
    found = [Cell(name, 784, k, small) for name in ("P1", "P2", "P3", "P4") for k in (1, 3, 8)]
    found += [Cell("P1", 784, 8, small, correlated=True), Cell("P1", 784, 8, small, weight=1e-5)]
    found += [Cell("P2", 784, 64, small), Cell("P2", 784, 8, small, weight=1e-5), Cell("P3", 3072, 8, small)]
    found += [Cell("P3", 784, 8, small, steepness=3.0)]
    found += [Cell("P6", d, d, small) for d in (64, 784, 3072)]
    cost = ak.costs.L1()
    return (*found, *(Cell("P7", 784, k, small if k < 64 else 1_000, 0.1, cost=cost) for k in (1, 3, 8, 64)))


CELLS: tuple[Cell, ...] = _cells()
