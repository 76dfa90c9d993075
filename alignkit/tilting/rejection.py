"""Rejection sampling whose result does not depend on how many rows are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, Progress, TiltSession
from alignkit.errors import NonFiniteError
from alignkit.noise import fold_seed, uniform

__all__ = ["draw_accepted"]

Indices = NDArray[np.int64]

# What one batch of proposals may hold: 1 GiB of float32.
_ENTRIES = 1 << 28
_ROWS = 1 << 15
# Proposals beyond the number expected, so that a second round is rarely needed.
_MARGIN = 1.1
_SPARE = 16


def draw_accepted(
    session: TiltSession,
    propose: Callable[[int, int], tuple[Any, Floats]],
    log_acceptance: Callable[[Floats], Floats],
    rows: int,
    *,
    acceptance: float,
    ambient: int,
    seed: int,
    spare: bool = True,
    progress: Progress = None,
) -> tuple[Any, Indices]:
    """The first accepted rows of an endless numbered sequence of proposals.

    Arguments:
        session: takes rows of proposals.
        propose: the number of a first proposal and how many to x, (n, *shape), in the session's own arrays, and its
            features, (n, m); proposal i must not depend on the batch it is made in.
        log_acceptance: features (n, m) to log-probabilities of acceptance, (n,).
        rows: how many are wanted.
        acceptance: the share expected, for the size of batches alone.
        ambient: entries of a row, for the size of batches alone.
        seed: fixes which are accepted.
        spare: make more proposals than are expected to do, so that a second round is rarely needed; worth while where
            they cost little.
        progress: told how many there are.

    Returns:
        (rows, *shape), and the numbers of these proposals, (rows,).

    Raises:
        NonFiniteError: a proposal was not finite; the rows accepted before it are the error's `draws`.
    """
    seed = fold_seed(seed, "acceptance")
    kept: list[Any] = []
    numbers: list[Indices] = []
    found, proposed = 0, 0
    block_max = min(_ROWS, max(1, _ENTRIES // ambient))
    while found < rows or not kept:
        wanted = math.ceil((rows - found) / acceptance)
        if spare:
            wanted = math.ceil(_MARGIN * wanted) + _SPARE
        block = min(wanted, block_max)
        try:
            x, features = propose(proposed, block)
        except NonFiniteError as error:
            error.draws = _joined(kept) if kept else None
            raise
        uniforms = uniform(seed, block, 1, first_row=proposed)[:, 0]
        accepted = np.flatnonzero(np.log(uniforms) < log_acceptance(features))[: rows - found]
        kept.append(session.take(x, accepted))
        numbers.append(proposed + accepted)
        found, proposed = found + accepted.size, proposed + block
        if progress is not None:
            progress("sampling", found, rows)
    return _joined(kept), np.concatenate(numbers)


def _joined(parts: list[Any]) -> Any:
    return array_api_compat.array_namespace(parts[0]).concat(parts)
