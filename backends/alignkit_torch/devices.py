"""Devices by name."""

from __future__ import annotations

import torch

from alignkit.errors import ParameterError

__all__ = ["device_named", "float64_device"]


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
