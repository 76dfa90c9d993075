"""The result: a fitted sampler of the aligned law, with its certificate."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np

from alignkit import registry
from alignkit.base.law import checked_count
from alignkit.certificates import KLCertificate, TransportCertificate
from alignkit.compiler.declaration import Declaration
from alignkit.compiler.layer import MapOfParameters
from alignkit.compiler.plan import Plan
from alignkit.errors import BackendUnavailableError, NotDifferentiableError, ParameterError, StaleFitError, Status
from alignkit.estimates import Estimate
from alignkit.expressions import Parameter
from alignkit.expressions.arrays import to_numpy
from alignkit.noise import checked_seed
from alignkit.registry import Manifest
from alignkit.report.plots import Plots
from alignkit.report.progress import progress_lines
from alignkit.tilting.fitted import FittedTilt
from alignkit.transport.account import Transported
from alignkit.transport.derivatives import Layers, TransportDerivative
from alignkit.transport.fitted import FittedTransport
from alignkit.transport.reduction import TransportMap

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
        declared: the problem as it was written down, with the seed of the fit; None where that is not known.

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
    declared: Declaration | None = None

    def sample(
        self, n: int, *, seed: int, return_base: bool = False, like: Any = None, progress: bool | None = None
    ) -> Any:
        """Draw from the aligned law.

        Arguments:
            n: how many draws.
            seed: fixes them; draw i does not depend on n.
            return_base: under Wasserstein closeness, also return the base draws that were moved.
            like: a torch or jax array whose kind, dtype and device the result takes; numpy if None.
            progress: True shows a progress line, False none, None on a terminal or in a notebook.

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

        Where a radius needed two maps a coin chooses between them for each row: row i has the coin of the fit's seed
        and of i, so that the same rows in the same places move alike every time.

        Where x is a torch tensor that requires a gradient, torch can differentiate T(x) in x; `layer` is differentiated
        in λ and parameters too, and in jax.

        Arguments:
            x: (n, *shape), numpy, torch or jax.
            on_error: "raise" refuses rows with a NaN or an infinity; "keep" returns them as they are.
            out: where T(x) is written, an array like x, numpy or torch; x itself is fine. It has no derivative.
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
        transport, is_attached = self.fitted.map, out is None and getattr(x, "requires_grad", False)
        with progress_lines(progress) as report:
            if not (return_details or is_attached):
                return transport.move(x, report, on_error=on_error, out=out)
            moved = transport.apply(x, report, on_error=on_error, out=out)
        if is_attached:
            moved = replace(moved, y=self._attached(x, moved))
        return moved if return_details else moved.y

    def layer(self, engine: str, *, parameters: Sequence[Parameter] = (), weight: bool = False) -> Callable[..., Any]:
        """The map T as a function of x, of parameters of the reward and of λ that an engine differentiates.

        Arguments:
            engine: "torch", for autograd, or "jax", for `jax.grad` and `jax.vjp`, under `jax.jit` too.
            parameters: those whose values the function takes.
            weight: whether it takes λ.

        Returns:
            a function of (x, *values of the parameters, λ), arrays of the engine, to T(x) at these values: x is
            (n, *shape), a value has its parameter's shape, λ is a number. Parameters that are not named, and λ where it
            is not taken, keep the values of this solution, under a radius the λ that was found. It solves anew, and
            this solution does not change.

        Raises:
            ParameterError: under KL closeness, or a parameter is not one of the reward.
            NotDifferentiableError: a coin chooses between two maps, within some radius.
            BackendUnavailableError: the engine is not installed, or has no derivatives here.
            StaleFitError: a parameter of the problem has changed since the fit.

        A derivative that does not exist, as where two maximisers are as good or a kink is about to be left, raises
        `NotDifferentiableError` when it is asked for.

        Example:
            >>> import alignkit as ak, torch
            >>> x, target = ak.Variable(2), ak.Parameter(2, [1.0, 0.0])
            >>> base = ak.base.Gaussian([0.0, 0.0], 1.0)
            >>> problem = ak.Problem(-ak.sum_squares(x - target), base, ak.Wasserstein(weight=2.0))
            >>> layer = problem.solve(seed=0).layer("torch", parameters=[target])
            >>> value = torch.tensor([1.0, 0.0], requires_grad=True)
            >>> layer(torch.zeros(1, 2), value).sum().backward()
            >>> value.grad
            tensor([0.5000, 0.5000])

        Source: A. Agrawal et al., "Differentiable convex optimization layers", NeurIPS 2019.
        """
        self._check_fresh()
        transport = self._transport()
        named = tuple(parameters)
        own = self.plan.diagnosis.reward.parameters()
        strangers = [str(one) for one in named if not any(one is parameter for parameter in own)]
        if strangers or len({id(one) for one in named}) < len(named):
            raise ParameterError(
                f"A layer takes parameters of the reward, each once, and {', '.join(strangers) or 'one'} is not so; "
                f"the reward has {', '.join(map(str, own)) or 'none'}.",
                ways_out=["weight=True makes λ an argument, whether it is a parameter or a number."],
                expression=str(self.plan.diagnosis.reward),
            )
        layers: Layers = _layers(engine)
        host = MapOfParameters(
            self.plan,
            transport.weight,
            transport.cost,
            parameters=named,
            takes_weight=weight,
            autodiff=layers.autodiff,
        )
        return layers.layer(host)

    def _transport(self) -> TransportMap:
        """The one map that moves every row."""
        if not isinstance(self.fitted, FittedTransport):
            raise ParameterError(
                "A layer is a map of points, but this problem was solved under KL closeness, which has no map.",
                ways_out=["Use ak.Wasserstein(weight=…)."],
            )
        if not isinstance(self.fitted.map, TransportMap):
            raise NotDifferentiableError(
                "Within this radius a coin chooses between two maps for each row, and there is no one derivative.",
                ways_out=["ak.Wasserstein(weight=λ), where each row has one map."],
                expression=str(self.plan.diagnosis.reward),
            )
        return self.fitted.map

    def _attached(self, x: Any, moved: Transported) -> Any:
        """T(x) with x as its origin, for torch."""
        layers = _layers("torch")

        def pull_back(rows: Any, y: Any, cotangent: Any) -> Any:
            self._check_fresh()
            transport = self._transport()
            derivative = TransportDerivative(
                transport.composition, self.plan.diagnosis.reward, transport.weight, layers.autodiff, transport.cost
            )
            # Half precision tells too little of where a maximiser is.
            found = transport.apply(rows) if x.dtype.itemsize < 4 else replace(moved, y=y)
            return derivative.pull_back(rows, found.y, cotangent, gap=found.gap, refused=found.tied).x

        return layers.attach(x, moved.y, pull_back)

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
        """Pictures of the result, each a matplotlib figure: `samples`, `rewards`, `gaps`, `tilts` and `path`."""
        return Plots(self.plan, self.certificate, self.fitted, self._check_fresh)

    def report(
        self, path: str | os.PathLike[str], *, n: int = 512, seed: int = 0, progress: bool | None = None
    ) -> Path:
        """Write a report: the problem, how it was solved, draws before and after, what was achieved.

        Arguments:
            path: of the HTML file, which needs nothing beside it; its folder is made, what was there is replaced.
            n: how many draws to look at, before and after.
            seed: fixes them; the same as the seed of `sample`.
            progress: as for `sample`.

        Returns:
            the path.

        Raises:
            ParameterError: n or the seed is out of range, or the path is a folder.
            StaleFitError: a parameter of the problem has changed since the fit.
            OSError: the file cannot be written.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable((2,))
            >>> aligned = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0)).solve(seed=0)
            >>> aligned.report("report.html").name  # doctest: +SKIP
            'report.html'
        """
        # Imported here, as most programs never write reports.
        from alignkit.report.findings import findings_of
        from alignkit.report.page import checked_path, report_html
        from alignkit.saving.whole import whole_file

        self._check_fresh()
        rows, seed, file = checked_count(n), checked_seed(seed), checked_path(path)
        with progress_lines(progress) as report:
            findings = findings_of(
                self.plan, self.certificate, self.status, self.fitted, self.declared,
                rows=rows, seed=seed, progress=report,
            )  # fmt: skip
        page = report_html(findings).encode()
        with whole_file(file) as written:
            written.write(page)
        return file

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a file, for `ak.load`: numbers and JSON in the format of safetensors, nothing executable.

        The file holds the problem as it was declared, the plan, the certificate, and what the sampler draws from. It
        holds no network and no function of your own: those are declared again when it is loaded.

        Arguments:
            path: of the file; its folder must exist. What was there is replaced in one step.

        Raises:
            ParameterError: the path is a folder, or a backend made a sampler of its own kind.
            StaleFitError: a parameter of the problem has changed since the fit.
            OSError: the file cannot be written.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable((2,))
            >>> aligned = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0)).solve(seed=0)
            >>> aligned.save("bright.alignkit")  # doctest: +SKIP
        """
        # Imported here, as most programs never save results.
        from alignkit.saving.result import Result, write_result

        self._check_fresh()
        write_result(path, Result(self.plan, self.certificate, self.status, self.fitted, self.declared))

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

    def __str__(self) -> str:
        return f"{self.status}\n{self.certificate}"

    def __repr__(self) -> str:
        return f"Aligned({self.plan.route}, backend={self.plan.backend!r}, status={self.status.name})"


def _layers(engine: str) -> Any:
    """The first available backend's layers in an engine."""
    for status in registry.installed_backends():
        manifest = status.manifest
        if manifest is not None and engine in manifest.engines and manifest.transport_layer:
            return registry.require(status.name, "transport_layer")()
    found = sorted({one for status in registry.installed_backends() for one in _engines_with_layers(status.manifest)})
    raise BackendUnavailableError(
        f"No backend has derivatives of transport maps in {engine!r}; there are some in {', '.join(found) or 'none'}.",
        ways_out=['aligned.layer("torch").'],
    )


def _engines_with_layers(manifest: Manifest | None) -> tuple[str, ...]:
    return manifest.engines[:1] if manifest is not None and manifest.transport_layer else ()


def _as_kind(x: Any, like: Any) -> Any:
    """An engine's array as numpy, or as the kind, dtype and device of `like`."""
    if array_api_compat.is_torch_array(x) and not array_api_compat.is_torch_array(like):
        x = to_numpy(x)
    if like is None:
        return np.asarray(x)
    try:
        xp = array_api_compat.array_namespace(like)
    except TypeError:
        raise ParameterError(
            f"like={like!r} is not a numpy, torch or jax array.", ways_out=["Pass an array, e.g. like=torch.empty(0)."]
        ) from None
    return xp.asarray(x, dtype=like.dtype, device=array_api_compat.device(like))
