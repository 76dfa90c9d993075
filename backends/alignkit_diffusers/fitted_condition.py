"""Whether a tilted network is told the condition that its particles were fitted under."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import CalibrationWarning
from alignkit_diffusers.conditioning import ConditionedNetwork

__all__ = ["FittedCondition"]

# Of the mean norm of a prompt's vectors. Encoders in bfloat16 are off by some hundredths from batch to batch; another
# word moves its own vector by more than this.
_SAME = 0.1


class FittedCondition:
    """The prompt or label of a fit, with the other side of its guidance.

    The particles of a tilted law are draws under one condition, and answer for it alone. Pipelines hand the same
    tensors to every step, so that each is looked at once in a call.

    Arguments:
        answer: the network as the fit called it.

    Example:
        >>> answer = ConditionedNetwork(None, {"class_labels": torch.tensor([3])}, None, 1.0, None)
        >>> FittedCondition(answer).strangers({"class_labels": torch.tensor([3, 3, 4])})
        ['class_labels']
    """

    def __init__(self, answer: ConditionedNetwork) -> None:
        self._sides = [side for side in (answer.conditional, answer.unconditional) if side is not None]
        self._seen: dict[str, weakref.ref[Tensor]] = {}

    def check(self, given: Mapping[str, Any], network: str) -> None:
        """Warn where some rows are told what no side of the fit was.

        Arguments:
            given: the arguments of the network by name.
            network: what the warning calls it.

        Warns:
            CalibrationWarning: once for each call of a pipeline under another condition.
        """
        strangers = self.strangers(given)
        if strangers:
            warnings.warn(
                f"The tilted {network} was told another {' and another '.join(strangers)} than its particles were "
                "fitted under: what is drawn is a tilt of neither condition. Call the pipeline with the prompt or "
                "label of the fit and with its guidance, or make one for this condition: "
                "ak.tilted_pipeline(pipeline, theta, prompt=…, guidance_scale=…).",
                CalibrationWarning,
                stacklevel=2,
            )

    def strangers(self, given: Mapping[str, Any]) -> list[str]:
        """Names of arguments, not looked at before, with rows that no side of the fit was told."""
        found = []
        for name in self._sides[0]:
            told, known = given.get(name), [side[name] for side in self._sides if isinstance(side[name], Tensor)]
            # Mappings go with a prompt that is told beside them.
            if not isinstance(told, Tensor) or not known or self._is_seen(name, told):
                continue
            self._seen[name] = weakref.ref(told)
            if not bool(torch.stack([_are_alike(told, one) for one in known]).any(dim=0).all()):
                found.append(name)
        return found

    def _is_seen(self, name: str, told: Tensor) -> bool:
        seen = self._seen.get(name)
        return seen is not None and seen() is told


def _are_alike(told: Tensor, known: Tensor) -> Tensor:
    """Which rows of a batch (n, …) are those of one row (1, …), (n,)."""
    if told.shape[1:] != known.shape[1:]:
        return torch.zeros(len(told), dtype=torch.bool, device=told.device)
    known = known.to(told.device)
    if not told.is_floating_point():
        return torch.eq(told, known).reshape(len(told), -1).all(dim=1)
    width = told.shape[-1] if told.ndim > 1 else 1
    rows, row = (values.double().reshape(len(values), -1, width) for values in (told, known))
    furthest = (rows - row).norm(dim=-1).amax(dim=-1)
    return torch.le(furthest, _SAME * row.norm(dim=-1).mean())
