"""Draws of tilted laws: an ODE solver on the tilted denoiser D_θ(v, σ) = D(v + σ²θ, σ), a tilt per row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from alignkit.base import BaseLaw, Denoiser
from alignkit.contracts import Progress
from alignkit.errors import NonFiniteError
from alignkit.noise import normal
from alignkit_torch.devices import device_named, free_memory, rows_that_fit
from alignkit_torch.row_trial import try_rows
from alignkit_torch.solvers import StepNoise, solve_flow, solver_named, step_noise
from alignkit_torch.tilt_sampler import DETERMINISTIC, chosen_solver, denoiser_calls

__all__ = ["TorchTiltSession", "sample_base"]

Floats = NDArray[np.float64]

# A network holds many activations per entry of x; where nobody says how many, this many copies of a row leave room.
_COPIES_PER_ROW = 256


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
        solver: str | None = None,
    ) -> None:
        self.base = base
        self.device = device
        self.dtype = getattr(torch, base.dtype)
        self.evaluations = 0
        self._solver = chosen_solver(base, solver)
        chosen = solver_named(self._solver)
        # A map of noise alone is asked for beside draws, and a solver that draws noise of its own is none.
        self._map = DETERMINISTIC if chosen.is_stochastic else self._solver
        self._calls_per_draw = chosen.evaluations(denoiser_calls(base, nfe))
        self.nfe_per_draw = self._calls_per_draw * base.evaluations_per_denoise
        self._rows_at_most: int | None = None
        #: Called after every evaluation while somebody waits for rows.
        self._told: Callable[[], None] | None = None
        self._directions = self._tensor(directions)
        if isinstance(base, Denoiser):
            self.evaluations += try_rows(base, self._directions) * base.evaluations_per_denoise
        self._base_mean = self._denoise(torch.zeros_like(self._directions[:1]), base.sigma_max)

    def _tensor(self, values: Floats) -> torch.Tensor:
        # Rounded on the host: not every device has float64.
        return torch.tensor(np.asarray(values, dtype=self.base.dtype), device=self.device)

    def _tilts(self, coordinates: Floats) -> torch.Tensor | None:
        """θ = coordinates @ directions on the device; None for the base itself, which then costs nothing extra."""
        if not np.any(coordinates):
            return None
        return self._product(self._tensor(coordinates), self._directions)

    def _product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """A matrix product in the session's dtype, also where the user lets networks run in a narrower one."""
        with torch.autocast(self.device.type, enabled=False):
            return left @ right

    def _flat_denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The base's own denoiser, of flat rows (n, d)."""
        found: torch.Tensor = self.base.denoise(x.reshape(-1, *self.base.shape), sigma).reshape(x.shape)
        if self._told is not None:
            self._told()
        return found

    @torch.no_grad()
    def _denoise(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """D(x, σ) of flat rows, (n, d), looked at."""
        found = self._flat_denoise(x, x.new_full((x.shape[0],), sigma))
        self.evaluations += x.shape[0] * self.base.evaluations_per_denoise
        if not bool(torch.isfinite(found).all()):
            raise NonFiniteError(
                f"The denoiser of {self.base.name!r} gave NaN or infinite values at its largest noise scales, "
                f"at σ = {sigma:.4g}.",
                ways_out=["Check it on inputs of scale σ_max, moved by σ_max²θ for a tilt θ.", "Use dtype='float64'."],
            )
        return found

    def _solve(
        self,
        theta: torch.Tensor | None,
        x: torch.Tensor,
        *,
        sigma: float,
        nfe: int,
        occasion: str,
        noise: StepNoise | None,
        centre: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rows from noise of scale sigma down; without noise for the steps, by a map."""
        solver = self._map if noise is None else self._solver
        found = solve_flow(
            self._flat_denoise,
            x,
            self.base.sigma_min,
            sigma,
            nfe=nfe,
            solver=solver,
            tilt=theta,
            centre=centre,
            noise=noise,
            name=repr(self.base.name),
            occasion=occasion,
        )
        calls = solver_named(solver).evaluations(nfe)
        self.evaluations += calls * x.shape[0] * self.base.evaluations_per_denoise
        return found

    def _from_top(
        self, theta: torch.Tensor | None, noise: torch.Tensor, steps: StepNoise | None, occasion: str
    ) -> torch.Tensor:
        """Rows from σ_max down, of noise (n, d) for the start and noise for the steps, or by a map."""
        start = torch.add(self._base_mean, noise, alpha=self.base.sigma_max)
        return self._solve(
            theta,
            start,
            sigma=self.base.sigma_max,
            nfe=self._calls_per_draw,
            occasion=occasion,
            noise=steps,
            centre=self._base_mean,
        )

    def _by_chunks(
        self,
        work: Callable[[int, int, Floats], torch.Tensor],
        coordinates: Floats,
        rows: int,
        progress: Progress,
        calls: int = 1,
    ) -> torch.Tensor:
        """Rows that `work(start, stop, their coordinates)` makes, (rows, *shape), as many at once as memory holds.

        Each takes so many calls of the denoiser, which progress is told by.
        """
        out = torch.empty((rows, self.base.ambient), dtype=self.dtype, device=self.device)
        row_bytes = self.base.row_bytes or self.base.ambient * _COPIES_PER_ROW * self.dtype.itemsize
        step = min(rows_that_fit(row_bytes, free_memory(self.device)), self._rows_at_most or rows)
        start = 0
        while start < rows:
            stop = min(rows, start + step)
            self._told = None if progress is None else _counted(progress, start, stop, rows, calls)
            try:
                out[start:stop] = work(
                    start, stop, coordinates if coordinates.shape[0] == 1 else coordinates[start:stop]
                )
            except torch.cuda.OutOfMemoryError:
                if stop - start == 1:
                    raise
                step = self._rows_at_most = (stop - start) // 2
                continue
            finally:
                self._told = None
            start = stop
            if progress is not None:
                progress("sampling", stop, rows)
        return out.reshape(rows, *self.base.shape)

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

        The start is N(m, σ_max²I) with m near the tilted mean, found by the first evaluation of the row itself.
        """

        def work(start: int, stop: int, part: Floats) -> torch.Tensor:
            noise = self.noise(stop - start, seed=seed, stage=stage, first_row=first_row + start)
            steps = step_noise(seed, stage=stage, first_row=first_row + start)
            return self._from_top(self._tilts(part), noise, steps, f"drawing from σ_max, in stage {stage}")

        return self._by_chunks(work, coordinates, rows, progress, self._calls_per_draw)

    def noise(self, rows: int, *, seed: int, stage: int = 0, first_row: int = 0) -> torch.Tensor:
        """The noise that draws start at, (rows, d); see `alignkit.contracts.PushforwardSession`."""
        reference = torch.empty(0, dtype=self.dtype, device=self.device)
        found: torch.Tensor = normal(seed, rows, self.base.ambient, stage=stage, first_row=first_row, like=reference)
        return found

    @torch.no_grad()
    def from_noise(self, noise: torch.Tensor, progress: Progress = None) -> torch.Tensor:
        """Base draws by the flow from σ_max; see `alignkit.contracts.PushforwardSession`.

        A stochastic solver is no map of this noise: where the session has one, the flow is solved by DPM-Solver++(2M).
        """

        def work(start: int, stop: int, _: Floats) -> torch.Tensor:
            return self._from_top(None, noise[start:stop], None, "drawing from given noise")

        return self._by_chunks(work, np.zeros((1, 1)), noise.shape[0], progress, self._calls_per_draw)

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
            noisy = torch.add(flat[start:stop], noise, alpha=sigma)
            steps = step_noise(seed, stage=stage, first_row=first_row + start)
            occasion = f"renoising, in stage {stage}"
            return self._solve(self._tilts(part), noisy, sigma=sigma, nfe=nfe, occasion=occasion, noise=steps)

        calls = solver_named(self._solver).evaluations(nfe)
        return self._by_chunks(work, coordinates, x.shape[0], progress, calls)

    def means(self, coordinates: Floats, sigma: float) -> Floats:
        """⟨direction, D(m₀ + σ²θ, σ)⟩, (j, m); see `alignkit.contracts.DenoisingTiltSession`."""

        def work(_: int, __: int, part: Floats) -> torch.Tensor:
            return self._denoise(
                self._base_mean + sigma**2 * self._product(self._tensor(part), self._directions), sigma
            )

        return self.features(self._by_chunks(work, coordinates, coordinates.shape[0], None))

    def features(self, x: torch.Tensor) -> Floats:
        """⟨direction, x⟩, (n, m), float64 on the host."""
        return self._product(x.reshape(x.shape[0], -1), self._directions.T).cpu().numpy().astype(np.float64)

    def spread(self, x: torch.Tensor) -> float:
        """The standard deviation of an entry of x, its root mean square over entries."""
        return float(x.var(dim=0).mean().sqrt())

    def take(self, x: torch.Tensor, indices: NDArray[np.int64]) -> torch.Tensor:
        """Rows of a device array by index."""
        return x[torch.as_tensor(indices, device=x.device)]


def _counted(
    progress: Callable[[str, int, int], None], start: int, stop: int, rows: int, calls: int
) -> Callable[[], None]:
    """Tells progress, evaluation by evaluation, as if rows were ready one after the other."""
    done = 0

    def tell() -> None:
        nonlocal done
        done = min(done + 1, calls)
        progress("sampling", start + (stop - start) * done // calls, rows)

    return tell
