"""Draws of tilted laws: an ODE solver on the tilted denoiser D_θ(v, σ) = D(v + σ²θ, σ), a tilt per row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.base import BaseLaw
from alignkit.contracts import Progress
from alignkit.errors import NonFiniteError
from alignkit.noise import normal
from alignkit_torch.devices import device_named
from alignkit_torch.solvers import solve_flow, tilted_denoise
from alignkit_torch.tilt_sampler import evaluations

__all__ = ["TorchTiltSession", "sample_base"]

Floats = NDArray[np.float64]

_MEMORY_BUDGET = 1 << 29
# A network holds many activations per entry of x; this many copies of a row leave room for them.
_COPIES_PER_ROW = 256
# Beyond this a larger batch gains a processor nothing.
_ROWS_MAX = 1 << 14


def sample_base(law: BaseLaw, n: int, *, seed: int, progress: Progress = None) -> NDArray[np.floating]:
    """Draw n rows from a law by its denoiser alone: the tilt sampler at θ = 0.

    Returns:
        (n, *shape), numpy, in the law's dtype.
    """
    session = TorchTiltSession(law, np.zeros((1, law.ambient)), device_named("auto"))
    return session.draw(np.zeros((1, 1)), n, seed=seed, progress=progress).cpu().numpy()


class TorchTiltSession:
    """Draws of one base law on one device; see `alignkit.contracts.DenoisingTiltSession`."""

    def __init__(
        self,
        base: BaseLaw,
        directions: Floats,
        device: torch.device,
        nfe: int | None = None,
        solver: str = "dpm_solver_2m",
    ) -> None:
        self.base = base
        self.device = device
        self.dtype = getattr(torch, base.dtype)
        self.nfe_per_draw = evaluations(base, nfe)
        self._solver = solver
        self._directions = self._tensor(directions)
        self._centres: dict[bytes, torch.Tensor] = {}
        self.evaluations = 0
        origin = torch.zeros((1, base.ambient), dtype=self.dtype, device=device)
        self._base_mean = self._denoise(origin, base.sigma_max, None)
        self._check_finite(self._base_mean)

    def _tensor(self, values: Floats) -> torch.Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def _tilts(self, coordinates: Floats) -> torch.Tensor | None:
        """θ = coordinates @ directions on the device; None for the base itself, which then costs nothing extra."""
        if not np.any(coordinates):
            return None
        return self._tensor(coordinates) @ self._directions

    @torch.no_grad()
    def _denoise(self, x: torch.Tensor, sigma: float, theta: torch.Tensor | None) -> torch.Tensor:
        """D_θ(x, σ) of flat rows, (n, d)."""
        self.evaluations += x.shape[0]
        return tilted_denoise(self._flat_denoise, x, sigma, theta)

    def _flat_denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The base's own denoiser, of flat rows."""
        found: torch.Tensor = self.base.denoise(x.reshape(-1, *self.base.shape), sigma).reshape(x.shape)
        return found

    def _solve(self, theta: torch.Tensor | None, x: torch.Tensor, sigma: float, nfe: int) -> torch.Tensor:
        self.evaluations += nfe * x.shape[0]
        denoise, sigma_min = self._flat_denoise, self.base.sigma_min
        return solve_flow(denoise, x, sigma_min, sigma, nfe=nfe, solver=self._solver, tilt=theta)

    def _chunk(self) -> int:
        budget = _MEMORY_BUDGET
        if self.device.type == "cuda":
            budget = torch.cuda.mem_get_info(self.device)[0] // 2
        per_row = self.base.ambient * _COPIES_PER_ROW * self.dtype.itemsize
        return int(min(max(1, budget // per_row), _ROWS_MAX))

    def _by_chunks(
        self,
        work: Callable[[int, int, Floats], torch.Tensor],
        coordinates: Floats,
        rows: int,
        progress: Progress,
    ) -> torch.Tensor:
        parts = []
        step = self._chunk()
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            parts.append(work(start, stop, coordinates if coordinates.shape[0] == 1 else coordinates[start:stop]))
            if progress is not None:
                progress("sampling", stop, rows)
        return torch.cat(parts).reshape(rows, *self.base.shape)

    @torch.no_grad()
    def draw(
        self,
        coordinates: Floats,
        rows: int,
        *,
        seed: int,
        stage: int = 0,
        first_row: int = 0,
        progress: Progress = None,
    ) -> torch.Tensor:
        """Draw rows from σ_max down; see `alignkit.contracts.TiltSession`.

        The start is N(m, σ_max²I) with m near the tilted mean: a start elsewhere would move the mean by
        (offset)·sd/σ_max.
        """

        def work(start: int, stop: int, part: Floats) -> torch.Tensor:
            theta = self._tilts(part)
            centre = self._centre(part, theta)
            noise = self.noise(stop - start, seed=seed, stage=stage, first_row=first_row + start)
            return self._solve(
                theta, torch.add(centre, noise, alpha=self.base.sigma_max), self.base.sigma_max, self.nfe_per_draw
            )

        return self._by_chunks(work, coordinates, rows, progress)

    def noise(self, rows: int, *, seed: int, stage: int = 0, first_row: int = 0) -> torch.Tensor:
        """The noise that draws start at, (rows, d); see `alignkit.contracts.PushforwardSession`."""
        reference = torch.empty(0, dtype=self.dtype, device=self.device)
        found: torch.Tensor = normal(seed, rows, self.base.ambient, stage=stage, first_row=first_row, like=reference)
        return found

    @torch.no_grad()
    def from_noise(self, noise: torch.Tensor, progress: Progress = None) -> torch.Tensor:
        """Base draws by the flow from σ_max; see `alignkit.contracts.PushforwardSession`."""

        def work(start: int, stop: int, _: Floats) -> torch.Tensor:
            begin = torch.add(self._base_mean, noise[start:stop], alpha=self.base.sigma_max)
            return self._solve(None, begin, self.base.sigma_max, self.nfe_per_draw)

        return self._by_chunks(work, np.zeros((1, 1)), noise.shape[0], progress)

    def _centre(self, coordinates: Floats, theta: torch.Tensor | None) -> torch.Tensor:
        """The tilted means at σ_max, iterated twice; that of a tilt all rows share is kept for later draws."""
        if theta is None:
            return self._base_mean
        key = coordinates.tobytes()
        if key in self._centres:
            return self._centres[key]
        # Rows of a finite mixture share few tilts, each of which is evaluated once.
        _, first_rows, places = np.unique(coordinates, axis=0, return_index=True, return_inverse=True)
        shift = self.base.sigma_max**2 * theta[torch.as_tensor(first_rows, device=self.device)]
        first = self._denoise(self._base_mean + shift, self.base.sigma_max, None)
        centre = self._denoise(first + shift, self.base.sigma_max, None)
        centre = centre[torch.as_tensor(places.reshape(-1), device=self.device)]
        if coordinates.shape[0] == 1:
            self._centres[key] = centre
        return centre

    @torch.no_grad()
    def renoise(
        self,
        x: torch.Tensor,
        coordinates: Floats,
        *,
        sigma: float,
        nfe: int,
        seed: int,
        stage: int,
        first_row: int = 0,
        progress: Progress = None,
    ) -> torch.Tensor:
        """Add noise and denoise under the tilt; see `alignkit.contracts.DenoisingTiltSession`."""
        flat = x.reshape(x.shape[0], -1)
        # A law without spread asks for no noise at all, at which no denoiser is defined.
        sigma = max(sigma, self.base.sigma_min)

        def work(start: int, stop: int, part: Floats) -> torch.Tensor:
            noise = self.noise(stop - start, seed=seed, stage=stage, first_row=first_row + start)
            return self._solve(self._tilts(part), torch.add(flat[start:stop], noise, alpha=sigma), sigma, nfe)

        return self._by_chunks(work, coordinates, x.shape[0], progress)

    @torch.no_grad()
    def means(self, coordinates: Floats, sigma: float) -> Floats:
        """⟨direction, D(m₀ + σ²θ, σ)⟩, (j, m); see `alignkit.contracts.DenoisingTiltSession`."""
        start = self._base_mean + sigma**2 * (self._tensor(coordinates) @ self._directions)
        found = self._denoise(start, sigma, None)
        self._check_finite(found)
        return self.features(found)

    def _check_finite(self, found: torch.Tensor) -> None:
        if not bool(torch.isfinite(found).all()):
            raise NonFiniteError(
                f"The denoiser of {self.base.name!r} gave NaN or infinite values at its largest noise scales.",
                ways_out=["Check it on inputs of scale σ_max, moved by σ_max²θ for a tilt θ.", "Use dtype='float64'."],
            )

    def features(self, x: torch.Tensor) -> Floats:
        """⟨direction, x⟩, (n, m), float64 on the host."""
        return (x.reshape(x.shape[0], -1) @ self._directions.T).double().cpu().numpy()

    def spread(self, x: torch.Tensor) -> float:
        """The standard deviation of an entry of x, its root mean square over entries."""
        return float(x.var(dim=0).mean().sqrt())

    def take(self, x: torch.Tensor, indices: NDArray[np.int64]) -> torch.Tensor:
        """Rows of a device array by index."""
        return x[torch.as_tensor(indices, device=x.device)]
