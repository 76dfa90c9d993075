"""Constants and small numerics on numpy, torch and jax arrays alike, through the array API standard."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.errors import NonFiniteError, ParameterError, ShapeError

__all__ = ["Array", "Floats", "MovedConstant", "constant_like", "logsumexp"]

#: An array of numpy, torch or jax.
Array: TypeAlias = Any
Floats: TypeAlias = NDArray[np.float64]


def is_sparse(value: object) -> bool:
    """True for scipy sparse matrices and arrays; does not import scipy, which costs more than numpy."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def is_operator(value: object) -> bool:
    """True for scipy `LinearOperator`s; does not import scipy."""
    interface = sys.modules.get("scipy.sparse.linalg._interface") or sys.modules.get("scipy.sparse.linalg")
    return interface is not None and isinstance(value, interface.LinearOperator)


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as in messages and placeholders: `4×64`, or `scalar`."""
    return "×".join(str(size) for size in shape) if shape else "scalar"


def check_shape(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    """Refuse empty shapes, which have no mean, maximum or basis.

    Raises:
        ShapeError: an entry is 0.
    """
    if 0 in shape:
        raise ShapeError(f"{what} has the empty shape {shape}: every axis needs at least one entry.")
    return shape


def as_finite(value: object, what: str | Callable[[], str]) -> Any:
    """Copy a constant into float64.

    Arguments:
        value: a number, nested sequence, numpy, torch or jax array (any device), or scipy sparse matrix.
        what: how messages call it; a function where that takes time to say.

    Returns:
        A read-only float64 ndarray, or a csr array.

    Raises:
        ParameterError: complex, object or string entries.
        NonFiniteError: a NaN or an infinity.
        ShapeError: an empty shape.
    """
    if is_operator(value):
        raise ParameterError(
            f"{_called(what)} is a scipy LinearOperator, which is not an array.",
            ways_out=("apply it with linear_map(operator, x)",),
        )
    if is_sparse(value):
        return _finite_sparse(value, what)
    array = _to_numpy(value)
    if array.dtype.kind not in "biuf":
        raise ParameterError(
            f"{_called(what)} has dtype {array.dtype}, which is not a real number type.",
            ways_out=("take the real part",) if array.dtype.kind == "c" else (),
        )
    if 0 in array.shape:
        check_shape(array.shape, _called(what))
    copy = np.array(array, dtype=np.float64, order="C", copy=True)
    if not np.isfinite(copy).all():
        raise NonFiniteError(
            f"{_called(what)} holds a NaN or an infinity.",
            ways_out=("clean it first, for example with numpy.nan_to_num",),
        )
    copy.flags.writeable = False
    return copy


def as_number(value: Any) -> float:
    """A real number as a float, NaN for anything else."""
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if is_real else math.nan


def _called(what: str | Callable[[], str]) -> str:
    return what if isinstance(what, str) else what()


def _finite_sparse(value: Any, what: str | Callable[[], str]) -> Any:
    from scipy import sparse

    if value.dtype.kind not in "biuf":
        raise ParameterError(f"{_called(what)} has dtype {value.dtype}, which is not a real number type.")
    if 0 in value.shape:
        check_shape(tuple(value.shape), _called(what))
    matrix = sparse.csr_array(value if value.ndim == 2 else value.reshape((1, -1)), dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all():
        raise NonFiniteError(f"{_called(what)} holds a NaN or an infinity.", ways_out=("clean its entries first",))
    return matrix


def _to_numpy(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray | np.generic | int | float):
        return np.asarray(value)
    if array_api_compat.is_array_api_obj(value):
        return to_numpy(value)
    try:
        return np.asarray(value)
    except ValueError as error:  # ragged nested lists
        raise ParameterError(f"{value!r} is not an array: {error}.") from error


def to_numpy(value: Array) -> NDArray[Any]:
    """An array of any library and device on the host, in its own dtype where numpy has it, without autograd history."""
    if not array_api_compat.is_torch_array(value):
        return np.asarray(value)
    value = value.detach().cpu()
    try:
        return value.numpy()  # type: ignore[no-any-return]
    except TypeError:  # numpy has no bfloat16
        return value.double().numpy()  # type: ignore[no-any-return]


def constant_like(value: Any, x: Array) -> Array:
    """A numpy or scipy constant as an array beside `x`.

    Arguments:
        value: an ndarray of any shape, or a scipy sparse matrix, which becomes dense.
        x: an array of numpy, torch or jax with a floating dtype.

    Returns:
        `value` in x's namespace, device and dtype.

    Example:
        >>> constant_like(np.arange(2), np.zeros(3, dtype=np.float32)).dtype
        dtype('float32')
    """
    if is_sparse(value):
        value = value.toarray()
    if isinstance(x, np.ndarray):
        return np.asarray(value, dtype=x.dtype)
    xp = array_api_compat.array_namespace(x)
    host = np.asarray(value)
    if host.dtype.kind != "f" or host.dtype.itemsize > np.dtype(np.float64).itemsize:
        host = host.astype(np.float64)
    dtype = x.dtype
    if array_api_compat.is_jax_array(x):
        return xp.asarray(host, dtype=dtype)  # tracers have no device of their own
    if str(dtype).endswith("bfloat16") or str(dtype).endswith("float16"):
        host = host.astype(np.float32)
    elif not host.flags.writeable:
        host = host.copy()  # torch cannot mark memory read-only, and warns
    return xp.astype(xp.asarray(host, device=array_api_compat.device(x)), dtype)


class MovedConstant:
    """A host constant that remembers its last copy on another library, device or dtype.

    Arguments:
        value: the constant, an ndarray.

    Large constants are moved once, not at every evaluation; jax arrays are not kept, as they may belong to a trace.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._moved: tuple[object, Array] | None = None

    def like(self, x: Array) -> Array:
        """The constant in x's namespace, device and dtype."""
        if isinstance(x, np.ndarray) or array_api_compat.is_jax_array(x):
            return constant_like(self.value, x)
        key = (type(x).__module__, str(array_api_compat.device(x)), str(x.dtype))
        if self._moved is not None and self._moved[0] == key:
            return self._moved[1]
        moved = constant_like(self.value, x)
        # A tensor made under torch.inference_mode must not enter a later autograd graph.
        if not getattr(moved, "is_inference", bool)():
            self._moved = (key, moved)
        return moved

    def __getstate__(self) -> dict[str, Any]:
        return {"value": self.value, "_moved": None}


def logsumexp(xp: Any, values: Array, axis: int | tuple[int, ...]) -> Array:
    """log Σ exp along axes without overflow; the standard has none.

    Arguments:
        xp: the array namespace of `values`.
        values: an array with a floating dtype.
        axis: the axes to reduce.

    Returns:
        `values` without those axes.

    Example:
        >>> float(logsumexp(np, np.array([1000.0, 1000.0]), 0))
        1000.6931471805599
    """
    peak = xp.max(values, axis=axis, keepdims=True)
    peak = xp.where(xp.isfinite(peak), peak, xp.zeros_like(peak))
    total = xp.log(xp.sum(xp.exp(values - peak), axis=axis))
    return total + xp.reshape(peak, total.shape)


def integers_like(values: NDArray[np.int64], x: Array) -> Array:
    """Integers, for indexing, in x's namespace and on its device."""
    if isinstance(x, np.ndarray):
        return values
    xp = array_api_compat.array_namespace(x)
    if array_api_compat.is_jax_array(x):
        return xp.asarray(values)  # tracers have no device of their own
    return xp.asarray(values, device=array_api_compat.device(x))


def flat(xp: Any, values: Array) -> Array:
    """(n, *shape) to (n, size)."""
    size = 1
    for length in values.shape[1:]:
        size *= length
    return xp.reshape(values, (values.shape[0], size))
