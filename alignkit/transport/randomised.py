"""Two transport maps between which a coin chooses for each row."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_jax_array
from numpy.typing import NDArray

from alignkit.contracts import Progress
from alignkit.errors import ParameterError
from alignkit.noise import uniform
from alignkit.transport.account import Transported
from alignkit.transport.reduction import TransportMap

__all__ = ["RandomisedMap"]


@dataclass(frozen=True, eq=False)
class RandomisedMap:
    """The best map within a radius at a λ where the mean cost jumps over it: some rows move far, and the others little.

    The coin of row i is a function of (seed, i) alone: the same rows in the same places always move alike, whatever the
    batch they are cut into is followed by.

    Arguments:
        cheap: the map a little above that λ, to the cheapest maximisers.
        dear: the map a little below it, to the dearest, with a session of its own.
        probability: of `dear`, between 0 and 1.
        seed: of the coins.

    Raises:
        ParameterError: the probability is out of range.
    """

    cheap: TransportMap
    dear: TransportMap
    probability: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ParameterError(f"The probability of the dearer map is between 0 and 1, not {self.probability}.")

    @property
    def tolerance(self) -> float:
        """The relative gap above which a row counts as unfinished."""
        return self.cheap.tolerance

    def with_seed(self, seed: int) -> RandomisedMap:
        """The same law of rows with other coins."""
        return replace(self, seed=seed)

    def chosen(self, rows: int) -> NDArray[np.bool_]:
        """Which of the rows 0, 1, … move by the dearer map, (rows,)."""
        return np.asarray(uniform(self.seed, rows, 1)[:, 0] < self.probability)

    def apply(self, x: Any, progress: Progress = None, *, on_error: str = "raise", out: Any = None) -> Transported:
        """Move each row of x by the map that its coin chooses.

        Arguments:
            x, progress, on_error, out: as for `TransportMap.apply`.

        Returns:
            the moved rows; `objective` and `gap` of each are at the λ of its map.

        Raises:
            ParameterError, ShapeError, NonFiniteError, UnboundedTransportError: as for `TransportMap.apply`.
        """
        far = np.flatnonzero(self.chosen(int(x.shape[0]) if x.ndim else 0))
        # Taken before any row is written, as `out` may be x.
        places = None if not far.size else array_namespace(x).asarray(far, device=device(x))
        selected = None if places is None else array_namespace(x).take(x, places, axis=0)
        # All rows, so that whatever is wrong is told of the user's own rows.
        moved = self.cheap.apply(x, progress, on_error=on_error, out=out)
        if selected is None:
            return moved
        dear = self.dear.apply(selected, progress, on_error=on_error)
        for field in fields(Transported):
            if field.name != "y":
                getattr(moved, field.name)[far] = getattr(dear, field.name)
        if is_jax_array(moved.y):
            return replace(moved, y=moved.y.at[places].set(dear.y))
        moved.y[places] = dear.y
        return moved

    def move(self, x: Any, progress: Progress = None, *, on_error: str = "raise", out: Any = None) -> Any:
        """T(x) alone; arguments and errors are those of `apply`."""
        return self.apply(x, progress, on_error=on_error, out=out).y
