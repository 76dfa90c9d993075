"""Random expressions as recipes: trees of operations that can be built in alignkit and, where it knows them, in cvxpy.

Every row of the table of atoms takes part through its example; operations with arguments worth varying have entries of
their own here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import cvxpy as cp
import numpy as np
from hypothesis import strategies as st

import alignkit.expressions as ex
from alignkit.expressions.table import ENTRIES

#: Of the variable, and of most sub-expressions; the others are (3,), (2,) and ().
SHAPE = (2, 3)
Build = Callable[..., Any]


def entries(seed: int, *shape: int, sign: int = 0) -> np.ndarray:
    """Small halves, of one sign if wanted; seed 0 gives many zeros."""
    values = np.random.default_rng(seed).integers(-3, 4, size=shape) / 2.0
    return values if sign == 0 else sign * np.abs(values)


@dataclass(frozen=True)
class Operation:
    """One way to make an expression.

    Arguments:
        name: for messages.
        shapes: of the arguments; "positive" asks for an argument of SHAPE whose entries are positive everywhere.
        result: the shape of what it makes.
        ours: from (arguments, constants' seed, sign) to an alignkit expression.
        theirs: the same in cvxpy; None where cvxpy has no such atom, or none of these shapes.
    """

    name: str
    shapes: tuple[Any, ...]
    result: tuple[int, ...]
    ours: Build
    theirs: Build | None = None


def _form(seed: int, sign: int) -> np.ndarray:
    root = entries(seed, 2, 3)
    return sign * root.T @ root if sign else root.T @ np.diag([1.0, -1.0]) @ root


def _knots(seed: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    breakpoints = np.array([-2.0, -0.5, 1.0, 3.0])
    slopes = np.sort(entries(seed, 3)) * (sign or 1)
    slopes = slopes if sign else np.random.default_rng(seed).permutation(slopes)
    return breakpoints, np.concatenate([[0.5], 0.5 + np.cumsum(slopes * np.diff(breakpoints))])


_M, _V, _S = SHAPE, (3,), ()
_POSITIVE = "positive"
_UNARY: dict[str, tuple[Build, Build | None]] = {
    "abs": (ex.abs, cp.abs),
    "square": (ex.square, cp.square),
    "huber": (lambda a: ex.huber(a, 1.5), lambda a: cp.huber(a, 1.5)),
    "pos": (ex.pos, cp.pos),
    "neg": (ex.neg, cp.neg),
    "exp": (ex.exp, cp.exp),
    "logistic": (ex.logistic, cp.logistic),
    "power 4": (lambda a: ex.power(a, 4), lambda a: cp.power(a, 4)),
    "sin": (ex.sin, None),
    "cos": (ex.cos, None),
    "tanh": (ex.tanh, None),
    "sigmoid": (ex.sigmoid, None),
    "arctan": (ex.arctan, None),
    "clip": (lambda a: ex.clip(a, -1.0, 2.0), None),
    "negative": (lambda a: -a, lambda a: -a),
    "cumsum": (lambda a: ex.cumsum(a, axis=1), lambda a: cp.cumsum(a, axis=1)),
    "reversed": (lambda a: a[::-1, [2, 0, 1]], lambda a: a[::-1, :][:, [2, 0, 1]]),
    "transposed twice": (lambda a: ex.reshape(a.T, SHAPE), lambda a: cp.reshape(a.T, SHAPE, order="C")),
}
#: Atoms with a domain, on arguments of every kind and on positive ones.
_ON_DOMAIN: dict[str, tuple[Build, Build]] = {
    "log": (ex.log, cp.log),
    "log1p": (ex.log1p, cp.log1p),
    "entr": (ex.entr, cp.entr),
    "sqrt": (ex.sqrt, cp.sqrt),
    "inv_pos": (ex.inv_pos, cp.inv_pos),
    "power 1.5": (lambda a: ex.power(a, 1.5), lambda a: cp.power(a, 1.5)),
    "power 0.3": (lambda a: ex.power(a, 0.3), lambda a: cp.power(a, 0.3)),
    "power -2": (lambda a: ex.power(a, -2), lambda a: cp.power(a, -2)),
    "power 3": (lambda a: ex.power(a, 3), lambda a: cp.power(a, 3)),
}
#: Powers that cvxpy calls increasing, though they are infinite left of 0: what it concludes of arguments that may be
#: negative is false, as `test_a_power_is_not_increasing_across_zero` shows, and is not asked for here.
INCREASING_ON_DOMAIN = {"power 1.5", "power 3"}
_SCALARS: dict[str, tuple[Build, Build | None]] = {
    "sum": (ex.sum, cp.sum),
    "mean": (ex.mean, cp.mean),
    "max": (ex.max, cp.max),
    "min": (ex.min, cp.min),
    "norm1": (ex.norm1, lambda a: cp.norm1(cp.vec(a, order="C"))),
    "norm2": (ex.norm2, lambda a: cp.norm2(cp.vec(a, order="C"))),
    "norm_inf": (ex.norm_inf, lambda a: cp.norm_inf(cp.vec(a, order="C"))),
    "pnorm 1.5": (lambda a: ex.pnorm(a, 1.5), lambda a: cp.pnorm(cp.vec(a, order="C"), 1.5)),
    "pnorm 4": (lambda a: ex.pnorm(a, 4), lambda a: cp.pnorm(cp.vec(a, order="C"), 4)),
    "sigma_max": (ex.sigma_max, cp.sigma_max),
    "total_variation": (ex.total_variation, cp.tv),
    "log_sum_exp": (ex.log_sum_exp, cp.log_sum_exp),
    "sum_squares": (ex.sum_squares, cp.sum_squares),
    "sum_largest": (lambda a: ex.sum_largest(a, 2), lambda a: cp.sum_largest(a, 2)),
    "sum_smallest": (lambda a: ex.sum_smallest(a, 3), lambda a: cp.sum_smallest(a, 3)),
    "distance_to_points": (lambda a: ex.distance_to_points(a, entries(3, 4, *SHAPE)), None),
}


def _operations() -> tuple[Operation, ...]:
    found = [
        Operation(
            name, (_M,), _M, lambda a, seed, sign, f=ours: f(*a), theirs and (lambda a, seed, sign, f=theirs: f(*a))
        )
        for name, (ours, theirs) in _UNARY.items()
    ]
    found += [
        Operation(
            name,
            (kind,),
            _M,
            lambda a, s, g, f=ours: f(*a),
            (lambda a, s, g, f=theirs: f(*a)) if kind == _POSITIVE or name not in INCREASING_ON_DOMAIN else None,
        )
        for name, (ours, theirs) in _ON_DOMAIN.items()
        for kind in (_M, _POSITIVE)
    ]
    found += [
        Operation(name, (_M,), _S, lambda a, s, g, f=ours: f(*a), theirs and (lambda a, s, g, f=theirs: f(*a)))
        for name, (ours, theirs) in _SCALARS.items()
    ]

    def both(name: str, shapes: tuple[Any, ...], result: tuple[int, ...], ours: Build, theirs: Build | None) -> None:
        found.append(Operation(name, shapes, result, ours, theirs))

    both("+", (_M, _M), _M, lambda a, s, g: a[0] + a[1], lambda a, s, g: a[0] + a[1])
    both("-", (_M, _M), _M, lambda a, s, g: a[0] - a[1], lambda a, s, g: a[0] - a[1])
    both("+ scalar", (_M, _S), _M, lambda a, s, g: a[0] + a[1], lambda a, s, g: a[0] + a[1])
    both("+ vector", (_M, _V), _M, lambda a, s, g: a[0] + a[1], None)
    both("+ constant", (_M,), _M, lambda a, s, g: a[0] + entries(s, *_M), lambda a, s, g: a[0] + entries(s, *_M))
    both(
        "weights",
        (_M,),
        _M,
        lambda a, s, g: a[0] * entries(s, *_M, sign=g),
        lambda a, s, g: cp.multiply(entries(s, *_M, sign=g), a[0]),
    )
    both("scaled", (_M,), _M, lambda a, s, g: (g * 1.5 or 0.5) * a[0], lambda a, s, g: (g * 1.5 or 0.5) * a[0])
    both(
        "/",
        (_M,),
        _M,
        lambda a, s, g: a[0] / (np.abs(entries(s, *_M)) + 0.5),
        lambda a, s, g: a[0] / (np.abs(entries(s, *_M)) + 0.5),
    )
    both("over positive", (_M, _POSITIVE), _M, lambda a, s, g: a[0] / (1.0 + a[1]), None)
    both(
        "@", (_M,), _M, lambda a, s, g: entries(s, 2, 2, sign=g) @ a[0], lambda a, s, g: entries(s, 2, 2, sign=g) @ a[0]
    )
    both(
        "@ right",
        (_M,),
        _M,
        lambda a, s, g: a[0] @ entries(s, 3, 3, sign=g),
        lambda a, s, g: a[0] @ entries(s, 3, 3, sign=g),
    )
    both("product", (_M, _M), _M, lambda a, s, g: a[0] * a[1], None)
    both("maximum", (_M, _M), _M, lambda a, s, g: ex.maximum(*a, 0.5), lambda a, s, g: cp.maximum(*a, 0.5))
    both("minimum", (_M, _M), _M, lambda a, s, g: ex.minimum(*a), lambda a, s, g: cp.minimum(*a))
    both("piecewise_linear", (_M,), _M, lambda a, s, g: ex.piecewise_linear(a[0], *_knots(s, g)), None)
    both(
        "linear_map",
        (_M,),
        _V,
        lambda a, s, g: ex.linear_map(entries(s, 3, 6, sign=g), a[0]),
        lambda a, s, g: entries(s, 3, 6, sign=g) @ cp.vec(a[0], order="C"),
    )
    both("row", (_M,), _V, lambda a, s, g: a[0][s % 2], lambda a, s, g: a[0][s % 2])
    both(
        "matrix of vector",
        (_V,),
        _M,
        lambda a, s, g: ex.stack([a[0], entries(s, 3, 3, sign=g) @ a[0]]),
        lambda a, s, g: cp.vstack([a[0], entries(s, 3, 3, sign=g) @ a[0]]),
    )
    both(
        "concatenate",
        (_M, _V),
        _M,
        lambda a, s, g: ex.concatenate([ex.reshape(a[1], (1, 3)), a[0][:1]]),
        lambda a, s, g: cp.vstack([cp.reshape(a[1], (1, 3), order="C"), a[0][:1]]),
    )
    both("diff", (_M,), _V, lambda a, s, g: ex.diff(a[0])[0], lambda a, s, g: cp.diff(a[0], axis=0)[0])
    both(
        "spread",
        (_S,),
        _M,
        lambda a, s, g: a[0] * entries(s, *_M, sign=g),
        lambda a, s, g: a[0] * entries(s, *_M, sign=g),
    )
    both(
        "inner",
        (_M,),
        _S,
        lambda a, s, g: ex.inner(entries(s, *_M, sign=g), a[0]),
        lambda a, s, g: cp.sum(cp.multiply(entries(s, *_M, sign=g), a[0])),
    )
    both("inner product", (_V, _V), _S, lambda a, s, g: ex.inner(*a), None)
    both(
        "quad_form",
        (_V,),
        _S,
        lambda a, s, g: ex.quad_form(a[0], _form(s, g)),
        lambda a, s, g: (
            cp.quad_form(a[0], cp.psd_wrap(_form(s, 1)) if g > 0 else -cp.psd_wrap(_form(s, 1))) if g else None
        ),
    )
    both(
        "quad_over_lin",
        (_V, _POSITIVE),
        _S,
        lambda a, s, g: ex.quad_over_lin(a[0], a[1][0, 0]),
        lambda a, s, g: cp.quad_over_lin(a[0], a[1][0, 0]),
    )
    both(
        "geo_mean",
        (_POSITIVE,),
        _S,
        lambda a, s, g: ex.geo_mean(a[0]),
        lambda a, s, g: cp.geo_mean(cp.vec(a[0], order="C")),
    )
    both("max axis", (_M,), _V, lambda a, s, g: ex.max(a[0], axis=0), lambda a, s, g: cp.max(a[0], axis=0))
    both("norm2 axis", (_M,), _V, lambda a, s, g: ex.norm2(a[0], axis=0), lambda a, s, g: cp.norm(a[0], 2, axis=0))
    both(
        "log_sum_exp axis",
        (_M,),
        _V,
        lambda a, s, g: ex.log_sum_exp(a[0], axis=0),
        lambda a, s, g: cp.log_sum_exp(a[0], axis=0),
    )
    both("sum axis", (_M,), _V, lambda a, s, g: ex.sum(a[0], axis=0), lambda a, s, g: cp.sum(a[0], axis=0))
    both("lipschitz", (_V,), _S, lambda a, s, g: ex.lipschitz(_wave, 2.0, a[0], gradient=_wave_slope), None)
    x = ex.Variable(SHAPE)
    known = {operation.name for operation in found}
    for row in ENTRIES:
        if row.name not in known:
            shape = row.example(x).shape
            build = row.example if shape in (_M, _S) else (lambda a, f=row.example: ex.sum(f(a)))
            both(row.name, (_M,), shape if shape in (_M, _S) else _S, lambda a, s, g, f=build: f(*a), None)
    return tuple(found)


def _wave(values: Any) -> Any:
    """The sine of twice the first entry of (n, 3), in any library."""
    first = 2.0 * values[:, 0]
    xp = array_api_compat.array_namespace(values)
    return xp.sin(first)


def _wave_slope(values: Any) -> Any:
    xp = array_api_compat.array_namespace(values)
    slope = 2.0 * xp.cos(2.0 * values[:, :1])
    return xp.concat([slope, xp.zeros_like(values[:, 1:])], axis=1)


OPERATIONS = _operations()


@dataclass(frozen=True)
class Recipe:
    """A tree of operations over the variable.

    Arguments:
        operation: None for leaves: the variable itself, or an affine map of it.
        args: the sub-trees.
        seed, sign: of the operation's constants.
        shape: of the values.
    """

    operation: Operation | None
    args: tuple[Recipe, ...]
    seed: int
    sign: int
    shape: tuple[int, ...]

    def __str__(self) -> str:
        if self.operation is None:
            return f"leaf {self.shape} {self.seed}"
        return f"{self.operation.name} {self.seed} {self.sign} ({', '.join(map(str, self.args))})"

    def build(self, x: Any, *, ours: bool) -> Any:
        """The expression over a variable of alignkit, or of cvxpy; None where cvxpy has no such atom."""
        if self.operation is None:
            return _leaf(x, self.shape, self.seed, ours=ours)
        args = [arg.build(x, ours=ours) for arg in self.args]
        make = self.operation.ours if ours else self.operation.theirs
        if make is None or any(arg is None for arg in args):
            return None
        return make(args, self.seed, self.sign)


def _leaf(x: Any, shape: tuple[int, ...], seed: int, *, ours: bool) -> Any:
    flat = ex.vec(x) if ours else cp.vec(x, order="C")
    if shape == _M:
        if seed % 3 == 0:
            return x
        if seed % 3 == 1:
            return x - entries(seed, *_M)
        wide = entries(seed, 6, 6) @ flat
        return ex.reshape(wide, _M) if ours else cp.reshape(wide, _M, order="C")
    if shape == _V:
        return x[seed % 2] if seed % 2 else entries(seed, 3, 6) @ flat + entries(seed + 1, 3)
    return entries(seed, 6) @ flat + 0.5 if seed % 2 else x[seed % 2, seed % 3]


def _positive(inner: Recipe, kind: int) -> Recipe:
    makes: tuple[tuple[str, Build, Build], ...] = (
        ("exp", lambda a, s, g: ex.exp(a[0]), lambda a, s, g: cp.exp(a[0])),
        ("1 + square", lambda a, s, g: 1.0 + ex.square(a[0]), lambda a, s, g: 1.0 + cp.square(a[0])),
        ("0.5 + abs", lambda a, s, g: 0.5 + ex.abs(a[0]), lambda a, s, g: 0.5 + cp.abs(a[0])),
        ("maximum with 0.3", lambda a, s, g: ex.maximum(a[0], 0.3), lambda a, s, g: cp.maximum(a[0], 0.3)),
    )
    name, ours, theirs = makes[kind]
    return Recipe(Operation(name, (_M,), _M, ours, theirs), (inner,), 0, 0, _M)


@st.composite
def recipes(draw: st.DrawFn, shape: tuple[int, ...], depth: int) -> Recipe:
    """Trees of at most `depth` operations on a path.

    Arguments:
        shape: of the values.
        depth: how many operations may stand above one another.
    """
    choices = [one for one in OPERATIONS if one.result == shape]
    # Wider ranges are not drawn uniformly.
    number = draw(st.integers(0, 2**23))
    if depth == 0 or (number % 7 == 0 and depth < 4):
        return Recipe(None, (), number // 7 % 1000, 0, shape)
    operation = choices[number // 7 % len(choices)]
    seed, sign = number % 997, number // 997 % 3 - 1
    args = []
    for place, kind in enumerate(operation.shapes):
        # One argument may be deep, the others are shallow: sizes stay linear in the depth.
        below = depth - 1 if place == number % len(operation.shapes) else min(depth - 1, 1)
        if kind == _POSITIVE:
            inner = draw(recipes(_M, max(below - 1, 0)))
            args.append(_positive(inner, number // 13 % 4))
        else:
            args.append(draw(recipes(kind, below)))
    return Recipe(operation, tuple(args), seed, sign, shape)
