"""A law's network on two rows of unlike noise, once: whether it reads σ as one number for each row."""

from __future__ import annotations

import math

import torch

from alignkit.base import Denoiser
from alignkit.errors import ShapeError
from alignkit.noise import normal

__all__ = ["try_rows"]

# Rounding differs from batch to batch, in bfloat16 by some per cent; of a row at another's σ most is another.
_DIFFERENT = 0.1


@torch.no_grad()
def try_rows(law: Denoiser, like: torch.Tensor) -> int:
    """Ask a network for a row alone and beside another, the first time that a law comes.

    Arguments:
        law: given by its network.
        like: of the device and dtype that rows will have.

    Returns:
        how many rows the network was asked for.

    Raises:
        ShapeError: it takes one row but not two, or a row's answer depends on what else is in the batch.
    """
    if law.was_tried:
        return 0
    # Under a level far above its own a row is denoised to something else, whatever the network predicts.
    levels = like.new_tensor([law.sigma_max, math.sqrt(law.sigma_min * law.sigma_max)])
    rows = (levels[:, None] * normal(0, 2, law.ambient, like=like)).reshape(2, *law.shape)
    alone = law.predict(rows[1:], levels[1:])
    try:
        beside = law.predict(rows, levels)[1:]
    except torch.OutOfMemoryError:
        # Where two rows do not fit, rows come one by one.
        beside = alone
    # Whatever torch or a network raises on shapes that do not go together.
    except (ShapeError, RuntimeError, TypeError, ValueError, IndexError) as error:
        said = error.message if isinstance(error, ShapeError) else str(error)
        raise _misread(law, f"takes one row, and fails on two: {said}") from error
    largest = torch.maximum(torch.linalg.vector_norm(alone), torch.linalg.vector_norm(beside))
    if bool(torch.linalg.vector_norm(beside - alone) > _DIFFERENT * largest):
        raise _misread(
            law,
            "answers otherwise for a row alone than beside another row, at another noise level.",
            "Put the network in evaluation mode: dropout, and batch normalisation, which ties rows together.",
        )
    law.was_tried = True
    return 3


def _misread(law: Denoiser, what: str, *ways_out: str) -> ShapeError:
    level = "t" if law.coordinates == "flow" else "sigma"
    axes = ", ".join(map(str, law.shape))
    return ShapeError(
        f"The denoiser {law.name!r} {what} It is given x of shape (n, {axes}) and {level} of shape (n,), one number "
        "for each row.",
        ways_out=[
            f"Give each row's number the axes of x: {level}.reshape(-1{', 1' * len(law.shape)}).",
            *ways_out,
        ],
    )
