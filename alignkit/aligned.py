"""The result: a fitted sampler of the aligned law, with its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from alignkit.base.law import checked_count
from alignkit.certificates import KLCertificate, TransportCertificate
from alignkit.compiler.plan import Plan
from alignkit.errors import ParameterError, StaleFitError, Status
from alignkit.estimates import Estimate
from alignkit.expressions import Parameter
from alignkit.noise import checked_seed
from alignkit.report.plots import Plots
from alignkit.report.progress import progress_lines
from alignkit.tilting.fitted import FittedTilt
from alignkit.transport.fitted import FittedTransport

__all__ = ["Aligned"]


@dataclass(frozen=True, eq=False)
class Aligned:
    """The aligned law q, fitted: draw from it as often as you like.

    Arguments:
        plan: how the problem was solved.
        certificate: what was achieved, with standard errors.
        status: how the solve ended; its value is a sentence.
        fitted: the engine's sampler.
        versions: the problem's parameters, with the version of each that was fitted.

    A parameter that changes afterwards makes the result stale: its certificate stays readable, but it draws no more.

    Example:
        >>> import alignkit as ak
        >>> x = ak.Variable((2,))
        >>> base = ak.base.Gaussian([0.0, 0.0], 1.0)
        >>> aligned = ak.Problem(ak.sum(x), base, ak.KL(weight=1.0)).solve(seed=0)
        >>> aligned.sample(3, seed=1).shape
        (3, 2)
        >>> print(aligned.log_partition)
        1
    """

    plan: Plan
    certificate: KLCertificate | TransportCertificate
    status: Status
    fitted: FittedTilt | FittedTransport
    versions: tuple[tuple[Parameter, int], ...] = ()

    def sample(
        self, n: int, *, seed: int, return_base: bool = False, like: Any = None, progress: bool | None = None
    ) -> Any:
        """Draw from the aligned law.

        Arguments:
            n: how many draws.
            seed: fixes them; draw i does not depend on n.
            return_base: under Wasserstein closeness, also return the base draws that were moved.
            like: a torch or jax array whose kind, dtype and device the result takes; numpy if None.
            progress: True shows a progress line, False none, None only in a terminal.

        Returns:
            (n, *shape); or a pair (base draws, aligned draws) of such arrays.

        Raises:
            ParameterError: n or the seed is out of range, or pairs are asked for under KL, which has none.
            StaleFitError: a parameter of the problem has changed since the fit.
        """
        self._check_fresh()
        rows, seed = checked_count(n), checked_seed(seed)
        with progress_lines(progress) as report:
            if isinstance(self.fitted, FittedTransport):
                x, y = self.fitted.sample_pairs(rows, seed=seed, progress=report)
                return (_as_kind(x, like), _as_kind(y, like)) if return_base else _as_kind(y, like)
            if return_base:
                raise ParameterError(
                    "return_base=True asks for pairs, but under KL a draw comes from no particular base draw.",
                    ways_out=[
                        "Use ak.Wasserstein(weight=…).",
                        "Draw from the base law by itself: base.sample(n, seed=…).",
                    ],
                )
            return _as_kind(self.fitted.sample(rows, seed=seed, progress=report), like)

    def transport(
        self,
        x: Any,
        *,
        on_error: str = "raise",
        out: Any = None,
        return_details: bool = False,
        progress: bool | None = None,
    ) -> Any:
        """Apply the optimal map T to your own data, under Wasserstein closeness.

        Where a radius needed two maps a coin chooses between them for each row: row i has the coin of the fit's seed and
        of i, so that the same rows in the same places move alike every time.

        Arguments:
            x: (n, *shape), numpy, torch or jax.
            on_error: "raise" refuses rows with a NaN or an infinity; "keep" returns them as they are.
            out: where T(x) is written, an array like x, numpy or torch; x itself is fine.
            return_details: also return what was achieved for each row.
            progress: as for `sample`.

        Returns:
            T(x), of x's shape, kind, dtype and device; or a `Transported`, with `y`, `objective`, `gap`, `cost` and
            `unfinished`, the rows that missed the tolerance or were kept.

        Raises:
            ParameterError: under KL closeness, where there is no map; or `on_error` or `out` is not as above.
            ShapeError: x's rows have another shape than the base law.
            NonFiniteError: x has a NaN or an infinity.
            UnboundedTransportError: a backend found that some row has no maximiser.
            StaleFitError: a parameter of the problem has changed since the fit.
        """
        self._check_fresh()
        if not isinstance(self.fitted, FittedTransport):
            raise ParameterError(
                "transport(x) moves points, but this problem was solved under KL closeness, which has no map.",
                ways_out=["Use ak.Wasserstein(weight=…).", "Draw from the aligned law: aligned.sample(n, seed=…)."],
            )
        with progress_lines(progress) as report:
            moved = self.fitted.map.apply(x, report, on_error=on_error, out=out)
            return moved if return_details else moved.y

    @property
    def log_partition(self) -> Estimate:
        """log E_p exp(r/λ), under KL closeness.

        Raises:
            ParameterError: under Wasserstein closeness, which has none.
        """
        if isinstance(self.certificate, KLCertificate):
            return self.certificate.log_partition
        raise ParameterError("Wasserstein closeness has no log-partition.", ways_out=["Use ak.KL(weight=…)."])

    @property
    def plot(self) -> Plots:
        """Pictures of the result: `aligned.plot.samples()`."""
        return Plots(self._before_and_after)

    def _check_fresh(self) -> None:
        changed = [parameter.name for parameter, version in self.versions if parameter.version != version]
        if changed:
            raise StaleFitError(
                f"The fit is stale: {', '.join(changed)} changed after it was made.",
                ways_out=[
                    "problem.solve(seed=…) again; what was compiled is used again.",
                    "For several fits at once, declare a problem for each, with constants in place of parameters.",
                ],
                expression=str(self.plan.diagnosis.reward),
            )

    def _before_and_after(self, n: int, seed: int) -> tuple[Any, Any]:
        self._check_fresh()
        if isinstance(self.fitted, FittedTransport):
            return self.fitted.sample_pairs(n, seed=seed)
        return self.plan.base.sample(n, seed=seed), _as_kind(self.fitted.sample(n, seed=seed), None)

    def __str__(self) -> str:
        return f"{self.status}\n{self.certificate}"

    def __repr__(self) -> str:
        return f"Aligned({self.plan.route}, backend={self.plan.backend!r}, status={self.status.name})"


def _as_kind(x: Any, like: Any) -> Any:
    """An engine's array as numpy, or as the kind, dtype and device of `like`."""
    if array_api_compat.is_torch_array(x) and not array_api_compat.is_torch_array(like):
        x = x.cpu().numpy()
    if like is None:
        return np.asarray(x)
    try:
        xp = array_api_compat.array_namespace(like)
    except TypeError:
        raise ParameterError(
            f"like={like!r} is not a numpy, torch or jax array.", ways_out=["Pass an array, e.g. like=torch.empty(0)."]
        ) from None
    return xp.asarray(x, dtype=like.dtype, device=array_api_compat.device(like))
