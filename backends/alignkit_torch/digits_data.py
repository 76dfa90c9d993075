"""The data behind the digits model: scikit-learn's 8×8 handwritten digits, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Digits", "load_digits"]


@dataclass(frozen=True)
class Digits:
    """The data: images in [-1, 1], float32, (n, 8, 8), and their labels 0 … 9, (n,)."""

    train: Tensor
    train_labels: NDArray[np.int64]
    held_out: Tensor
    held_out_labels: NDArray[np.int64]


def load_digits(held_out: int = 360) -> Digits:
    """The UCI optical digits as scikit-learn ships them, split by class; the split never depends on a seed."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    images = (images / 8 - 1).astype(np.float32).reshape(-1, 8, 8)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=held_out, stratify=labels, random_state=0
    )
    return Digits(torch.from_numpy(train), train_labels, torch.from_numpy(test), test_labels)
