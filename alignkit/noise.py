"""Counter-based noise: a row is a function of (seed, stage, row number, width), so batches may be cut anywhere.

The generator is Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
section 3.3), written on int64 arrays so that numpy and torch, on any device, give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.errors import ParameterError

__all__ = ["categorical", "checked_seed", "fold_seed", "normal", "uniform"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# Counters per block: ten rounds over arrays of this length stay in a core's cache.
_BLOCK = 1 << 15


def normal(seed: int, rows: int, size: int, *, stage: int = 0, first_row: int = 0, like: Any = None) -> Any:
    """Independent standard normal draws (Box and Muller's transform).

    Arguments:
        seed: a nonnegative integer below 2⁶⁴.
        rows: how many rows.
        size: how many columns.
        stage: numbers independent streams of one seed.
        first_row: the number of the first row; row i of this call is row `first_row + i` of the stream.
        like: an array whose namespace, device and floating dtype the result takes; numpy float64 if None.

    Returns:
        (rows, size).

    Example:
        >>> bool((normal(7, 5, 3)[2:] == normal(7, 3, 3, first_row=2)).all())
        True
    """

    def transform(xp: Any, words: tuple[Any, ...], dtype: Any) -> list[Any]:
        first, second, third, fourth = (_unit(xp, word, dtype) for word in words)
        out = []
        for radius, angle in ((first, second), (third, fourth)):
            length = xp.sqrt(-2.0 * xp.log(radius))
            turn = 2.0 * math.pi * angle
            out += [length * xp.cos(turn), length * xp.sin(turn)]
        return out

    return _fill(transform, seed, rows, size, stage=stage, first_row=first_row, like=like)


def uniform(seed: int, rows: int, size: int, *, stage: int = 0, first_row: int = 0, like: Any = None) -> Any:
    """Independent draws from the uniform law on (0, 1); arguments and result as for `normal`.

    Example:
        >>> uniform(1, 2, 3).shape
        (2, 3)
    """

    def transform(xp: Any, words: tuple[Any, ...], dtype: Any) -> list[Any]:
        return [_unit(xp, word, dtype) for word in words]

    return _fill(transform, seed, rows, size, stage=stage, first_row=first_row, like=like)


def categorical(probabilities: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Labels by inversion of uniform numbers.

    Arguments:
        probabilities: (n, c) for a law each, or (1, c) for one law; nonnegative, scaled here.
        uniforms: (n,), in (0, 1).

    Returns:
        (n,), labels from 0 to c − 1.

    Example:
        >>> categorical(np.array([[0.2, 0.8]]), np.array([0.1, 0.3])).tolist()
        [0, 1]
    """
    cumulative = np.cumsum(probabilities, axis=1)
    cumulative /= cumulative[:, -1:]
    if cumulative.shape[0] == 1:
        labels = np.searchsorted(cumulative[0], uniforms, side="right")
    else:
        labels = (uniforms[:, None] >= cumulative).sum(axis=1)
    # Rounding may leave the last sum a hair below a uniform number.
    out: NDArray[np.int64] = np.minimum(labels, cumulative.shape[1] - 1)
    return out


def fold_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, derived from the user's, so that purposes never share noise.

    Example:
        >>> fold_seed(0, "pilot") != fold_seed(0, "certificate")
        True
    """
    words = np.random.SeedSequence([checked_seed(seed), *purpose.encode()]).generate_state(1, np.uint64)
    return int(words[0])


def checked_seed(seed: int) -> int:
    """A seed, refused unless it is an integer between 0 and 2⁶⁴ − 1.

    Raises:
        ParameterError: it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) < 1 << 64:
        raise ParameterError(
            f"seed must be an integer between 0 and 2⁶⁴ − 1, not {seed!r}.", ways_out=["Pass, for example, seed=0."]
        )
    return int(seed)


def _fill(
    transform: Callable[[Any, tuple[Any, ...], Any], list[Any]],
    seed: int,
    rows: int,
    size: int,
    *,
    stage: int,
    first_row: int,
    like: Any,
) -> Any:
    seed = checked_seed(seed)
    reference = np.empty(0) if like is None else like
    xp = array_api_compat.array_namespace(reference)
    device, dtype = array_api_compat.device(reference), reference.dtype
    quads = -(-size // 4)
    out = xp.empty((rows, 4 * quads), dtype=dtype, device=device)
    columns = xp.arange(quads, dtype=xp.int64, device=device)[None, :]
    step = max(1, _BLOCK // max(1, quads))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        numbers = xp.arange(first_row + start, first_row + stop, dtype=xp.int64, device=device)[:, None]
        words = _philox(columns + 0 * numbers, numbers + 0 * columns, stage & _MASK, stage >> 32, seed)
        out[start:stop, :] = xp.concat(transform(xp, words, dtype), axis=1)
    return out[:, :size]


def _unit(xp: Any, word: Any, dtype: Any) -> Any:
    return (xp.astype(word, dtype) + 0.5) * 2.0**-32


def _philox(first: Any, second: Any, third: Any, fourth: Any, seed: int) -> tuple[Any, Any, Any, Any]:
    key_one, key_two = seed & _MASK, seed >> 32
    for _ in range(_ROUNDS):
        # The products wrap modulo 2⁶⁴ in two's complement, which leaves both 32-bit halves right.
        product_one, product_two = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        if isinstance(product_two, int):
            product_two &= (1 << 64) - 1
        first, second, third, fourth = (
            ((product_two >> 32) & _MASK) ^ second ^ key_one,
            product_two & _MASK,
            ((product_one >> 32) & _MASK) ^ fourth ^ key_two,
            product_one & _MASK,
        )
        key_one, key_two = (key_one + _KEY_STEPS[0]) & _MASK, (key_two + _KEY_STEPS[1]) & _MASK
    return first, second, third, fourth
