"""What a sampler under comparison is: settings to choose among, each of which draws on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tests.benchmarks.kl_exact import Counted
from tests.benchmarks.problems import Case


@dataclass(frozen=True, eq=False)
class Drawn:
    """Draws and what came with them.

    Attributes:
        rows: (n, *shape).
        log_partition: the method's estimate of log E_p exp(r/λ), where it has one.
        shared: evaluations that any number of further draws would use again, counted in rows.
    """

    rows: NDArray[Any]
    log_partition: float | None = None
    shared: int = 0


#: (rows, seed) to draws; everything it asks of p's denoiser it asks of the counted one.
Sampler = Callable[[int, int], Drawn]


@dataclass(frozen=True)
class Peer:
    """A way of sampling.

    Attributes:
        name: as in the table.
        settings: (case, p's denoiser, evaluations allowed per draw) to samplers by their settings.
        needs: a package beyond alignkit's own, or None.
        applies: whether it can be asked for a case.
        has_density: it is given p's density, and so a reference rather than a competitor.
    """

    name: str
    settings: Callable[[Case, Counted, int], Mapping[str, Sampler]]
    needs: str | None = None
    applies: Callable[[Case], bool] = lambda case: True
    has_density: bool = False
