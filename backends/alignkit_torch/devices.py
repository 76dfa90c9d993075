"""Devices by name, and what fits on them."""

from __future__ import annotations

import torch

from alignkit.errors import ParameterError

__all__ = ["device_named", "float64_device", "free_memory", "rows_that_fit"]

# Beyond this a larger batch gains a processor nothing.
ROWS_MAX = 1 << 14
# What a batch may take where the device does not say what it has left, as in the host's own memory. More leaves the
# caches: the shipped digits took 1.6 times as long with eight times as much.
_MODEST = 1 << 26
# The rest is for what others allocate meanwhile, and for memory in pieces too small to use.
_SHARE = 0.5


def device_named(name: str | torch.device) -> torch.device:
    """The torch device of a name, or the one given; "auto" is CUDA where present, else the CPU.

    Raises:
        ParameterError: torch does not know the device, or cannot use it here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    # A torch built without CUDA raises AssertionError.
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ParameterError(
            f"torch cannot use the device {name!r}: {error}", ways_out=["Use device='auto' or device='cpu'."]
        ) from error


def float64_device(name: str | torch.device) -> torch.device:
    """The torch device of a name, the CPU in place of one without float64 (mps); raises as `device_named`."""
    return device_named("cpu" if str(name).startswith("mps") else name)


def free_memory(device: torch.device) -> int | None:
    """How many bytes new tensors may take on a device; None where it does not say."""
    if device.type != "cuda":
        return None
    # What torch has taken from the device and holds for later is as good as free.
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def rows_that_fit(row_bytes: int, free: int | None) -> int:
    """How many rows to work on at once: as many as fit into half of what is free, at least one.

    Arguments:
        row_bytes: what a row takes while it is worked on.
        free: bytes, as `free_memory` says.

    Example:
        >>> rows_that_fit(1 << 20, free=1 << 30), rows_that_fit(1 << 20, free=0), rows_that_fit(1, free=1 << 30)
        (512, 1, 16384)
    """
    budget = _MODEST if free is None else int(_SHARE * free)
    return min(max(1, budget // row_bytes), ROWS_MAX)
