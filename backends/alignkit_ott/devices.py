"""jax in float64 on a named device, without changing jax for the rest of the program."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import jax

from alignkit.errors import ParameterError

__all__ = ["device_named", "float64_on"]

#: Where it was before jax 0.8.
_in_64_bits: Any = (jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")).enable_x64


def device_named(name: str) -> Any:
    """The jax device of a name; "auto" is jax's own choice.

    Raises:
        ParameterError: jax has no such device here.
    """
    platform, _, number = name.partition(":")
    try:
        devices = jax.devices() if platform == "auto" else jax.devices(platform)
        return devices[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        raise ParameterError(
            f"jax cannot use the device {name!r}: {error}", ways_out=["Use device='auto' or device='cpu'."]
        ) from error


@contextlib.contextmanager
def float64_on(device: Any = None) -> Iterator[None]:
    """64 bits and a default device for what runs inside; jax's own settings elsewhere.

    Arguments:
        device: a jax device; None for jax's default.
    """
    with _in_64_bits(True), jax.default_device(device):
        yield
