"""The user's arrays, of whatever library and device, as memory that rows can be read from and written to."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_torch_array, to_device

from alignkit.errors import ParameterError

__all__ = ["as_kind_of", "workable", "writeable"]


def workable(x: Any) -> Any:
    """The rows where they can be computed with in float64 and written to; numpy on the CPU, as its calls cost least."""
    # Looking a kind up takes as long as moving some rows.
    if isinstance(x, np.ndarray):
        return x
    if is_jax_array(x):  # immutable, and narrows float64 silently
        found = np.asarray(x)
        return found.astype(np.float32) if found.dtype.kind == "V" else found  # bfloat16 is none of numpy's own
    if not is_torch_array(x):
        return x
    x = x.detach()
    if x.device.type == "mps":  # Apple's GPUs have no float64
        x = x.cpu()
    return x.numpy() if x.device.type == "cpu" and x.dtype.itemsize >= 4 else x


def as_kind_of(moved: Any, x: Any) -> Any:
    """Moved rows as the kind of x, on its device."""
    if isinstance(x, np.ndarray):
        return moved
    if is_jax_array(x):
        dtype = x.dtype if array_namespace(x).isdtype(x.dtype, "real floating") else None
        return array_namespace(x).asarray(moved, dtype=dtype, device=x.device)
    if not is_torch_array(x):
        return moved
    if isinstance(moved, np.ndarray):
        moved = array_namespace(x).asarray(moved)
    return to_device(moved, x.device)


def writeable(out: Any, x: Any, rows: Any) -> Any:
    """The user's `out`, for T(x), where rows of the kind of `rows` can be written.

    Raises:
        ParameterError: it is not an array like x, or cannot be written to.
    """
    is_numpy = isinstance(out, np.ndarray)
    is_torch = not is_numpy and is_torch_array(out)
    fits = is_torch == (not isinstance(x, np.ndarray) and is_torch_array(x)) and (is_torch or is_numpy)
    fits = fits and tuple(out.shape) == tuple(x.shape) and out.dtype == x.dtype
    if not fits or (is_torch and out.device != x.device):
        raise ParameterError("out is an array like x: numpy or torch, of its shape, dtype and device.")
    found = workable(out)
    if type(found) is not type(rows) or found.dtype != rows.dtype or not _is_contiguous(found):
        raise ParameterError("out is contiguous, floating-point memory that can be written to.")
    return found


def _is_contiguous(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return array.flags.c_contiguous and array.flags.writeable
    return bool(array.is_contiguous())
