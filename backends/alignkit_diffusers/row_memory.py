"""What a row takes in memory while a network runs, measured on one."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["LivingOutputs"]

# What is not the output of a layer, and what layers need to work: U-Nets of 8×8 to 128×128 pictures took 1.75 to 2.6
# times the outputs that were alive at once.
_BESIDE_OUTPUTS = 3


class LivingOutputs:
    """Counts the bytes of a network's layers' outputs that are alive at once.

    Attributes:
        peak: the most there were, in bytes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._alive = 0

    @property
    def row_bytes(self) -> int | None:
        """What a row takes, from a call on one row; None where no layer was seen."""
        return _BESIDE_OUTPUTS * self.peak or None

    @contextmanager
    def watching(self, network: Any) -> Iterator[None]:
        """Watch calls of a module within; any other callable has no layers to watch."""
        modules = network.modules() if isinstance(network, nn.Module) else ()
        layers = (module for module in modules if next(module.children(), None) is None)
        hooks = [layer.register_forward_hook(self._count) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(self, _: nn.Module, __: Any, output: Any) -> None:
        for part in output if isinstance(output, tuple) else (output,):
            if isinstance(part, Tensor):
                size = part.numel() * part.element_size()
                self._alive += size
                self.peak = max(self.peak, self._alive)
                weakref.finalize(part, self._forget, size)

    def _forget(self, size: int) -> None:
        self._alive -= size
