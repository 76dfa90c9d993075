"""Tilts of a base law, which are base laws again: q_θ ∝ p·exp⟨θ, x⟩ for anyone's sampler.

With D(v, σ) = E_p[x₀ | x_σ = v], q_θ has the denoiser D(v + σ²θ, σ) ("The tractability landscape of diffusion
alignment", arXiv 2605.11361). A trained network was never shown inputs moved by σ²θ where σ‖θ‖ is large against √d.
So a learned base is annealed to q_θ once, and what the fit leaves, particles of q_θ and a noise scale σ_r from which
the network brings them back under its tilt, makes a denoiser of two halves: the exact posterior mean over the
particles from σ_r up, the network's D(v + σ²θ, σ) below. Any sampler of it, started at any σ_max, arrives at σ_r with
the law of a particle plus noise of scale σ_r, and goes on as the last move of `alignkit.tilting.annealed` does.

Both halves denoise one law, so that where a step straddles the switch it does not matter which of them it asks: the
switch is hard. Measured on the digits (‖θ‖ = 2, 4,096 particles, 31 and 63 evaluations from σ = 80), blends over 1.25²
to 2.5² of σ changed sliced W2 by less than 0.0003 of 0.018 with DPM-Solver++(2M), Heun and Euler. With 512 particles of
a law of 1,024 entries, where the halves differ most, the hard switch left variances within 0.03 of those that native
moves leave with DPM-Solver++(2M); narrow blends changed that by 0.01, the widest made it worse.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import ArrayLike

from alignkit import registry
from alignkit.asking import ask
from alignkit.base.empirical import Empirical
from alignkit.base.law import BaseLaw, ExactLaw, checked_count, finite_array
from alignkit.certificates import Calibration, KLCertificate
from alignkit.contracts import Bid, Floats, Guarantee, Progress, Refusal, TiltProgram, TiltSampler
from alignkit.errors import BackendUnavailableError, CalibrationWarning, ParameterError, ShapeError
from alignkit.expressions.arrays import to_numpy
from alignkit.noise import checked_seed
from alignkit.tilting.annealed import AnnealedTilt, fit_annealed
from alignkit.tilting.islands import check_particles
from alignkit.tilting.target import TiltTarget

__all__ = ["TiltedLaw", "tilt", "tilted_pipeline"]

# What the particles may take, in the law's own dtype; more would crowd a large network out of an accelerator.
_PARTICLE_BYTES = 1 << 28
# Of the fit's draws; fewer say too little of what the tilt is.
_ESS_MIN = 100
# Numbers of smaller types hold no exponents of a posterior.
_LEAST_ITEMSIZE = 4
# What bids are compared on.
_ROWS = 10_000


class TiltedLaw(BaseLaw):
    """The law q_θ ∝ p·exp⟨θ, x⟩ of a base law p that is known through its denoiser; made by `ak.tilt`.

    Call it as samplers call a denoiser, `law(x, sigma)`. What p says of itself (shape, noise levels, range, tail, how
    it is drawn from) is said of q_θ too.

    Arguments:
        base: p.
        theta: θ, of p's shape, in units of 1/x.
        particles: draws of q_θ, which denoise from `switch` up; None where the shifted denoiser of p does at every σ.
        switch: σ_r, in units of x.
        certificate: what the fit that made the particles measured of ⟨θ, x⟩.

    Example:
        >>> import alignkit as ak
        >>> normal = ak.base.Gaussian([0.0, 0.0], 1.0)
        >>> base = ak.base.Denoiser(normal.denoise, (2,), sigma_min=0.002, sigma_max=80.0, exact=True, dtype="float64")
        >>> tilted = ak.tilt(base, [2.0, 0.0])
        >>> tilted(np.zeros((1, 2)), np.array([1.0])).tolist()
        [[1.0, 0.0]]
    """

    def __init__(
        self,
        base: BaseLaw,
        theta: Floats,
        *,
        particles: Empirical | None = None,
        switch: float = math.inf,
        certificate: KLCertificate | None = None,
    ) -> None:
        self._base = base
        self._theta: Floats = np.array(theta, dtype=np.float64).reshape(base.shape)
        self._theta.setflags(write=False)
        self._particles = particles
        self._switch = switch if particles is not None else math.inf
        self._certificate = certificate
        self._is_base = not self._theta.any()
        self._device_copies: dict[Any, Any] = {}
        self.shape, self.name = base.shape, f"{base.name}, tilted"
        self.tail, self.data_range, self.exact = base.tail, base.data_range, base.exact
        self.sigma_min, self.sigma_max, self.dtype = base.sigma_min, base.sigma_max, base.dtype
        self.solver, self.nfe, self.row_bytes = base.solver, base.nfe, base.row_bytes
        self.evaluations_per_denoise = base.evaluations_per_denoise

    @property
    def base(self) -> BaseLaw:
        """p, the law before the tilt."""
        return self._base

    @property
    def theta(self) -> Floats:
        """θ, of p's shape, float64, in units of 1/x; of all tilts together where a tilted law was tilted."""
        return self._theta

    @property
    def switch(self) -> float:
        """The noise scale σ_r from which up the particles denoise, in units of x; infinite where there are none."""
        return self._switch

    @property
    def particles(self) -> Empirical | None:
        """Draws of q_θ with their weights, as a law; None where the shifted denoiser serves at every σ."""
        return self._particles

    @property
    def certificate(self) -> KLCertificate | None:
        """What the fit measured, of the reward ⟨θ, x⟩ at weight 1; None where there was none."""
        return self._certificate

    @property
    def calibration(self) -> Calibration | None:
        """The tilted denoiser against reweighted draws of the base; None where there was no fit."""
        return None if self._certificate is None else self._certificate.calibration

    @property
    def ess(self) -> float:
        """How many independent draws the particles are worth, infinite where there are none; see `BaseLaw.ess`."""
        return math.inf if self._certificate is None else self._certificate.ess

    @property
    def is_trustworthy(self) -> bool:
        """Whether the calibration holds and the particles are worth enough; `ak.tilt` warns where it is not so."""
        return (self.calibration is None or self.calibration.holds) and self.ess >= _ESS_MIN

    def sample(self, n: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw n rows with a backend's own sampler; see `BaseLaw.sample`."""
        return registry.offered("base_sampler")(self, checked_count(n), seed=checked_seed(seed), progress=progress)

    def denoise(self, x: Any, sigma: Any) -> Any:
        """E_{q_θ}[x₀ | x_σ = x]: D(x + σ²θ, σ) below the switch, the mean over the particles from there up.

        On an accelerator no level is read back, so both halves run and each row takes its own; only the half that is
        needed runs where the levels are known here: on the CPU, or as one number.

        Arguments:
            x: (n, *shape), of any kind that the base takes.
            sigma: (n,), on x's device; or one number for all rows.

        Returns:
            (n, *shape), of x's kind, dtype and device.

        Raises:
            ShapeError: rows of another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(
                f"denoise was given rows of shape {tuple(x.shape[1:])}, but the law {self.name!r} has {self.shape}.",
                ways_out=[f"Pass x with shape (n, {', '.join(map(str, self.shape))})."],
            )
        xp, device = array_api_compat.array_namespace(x), array_api_compat.device(x)
        is_number = isinstance(sigma, int | float | np.number)
        levels = xp.full((x.shape[0],), float(sigma), dtype=x.dtype, device=device) if is_number else sigma
        if self._particles is None:
            return self._shifted(x, levels)
        is_above = levels >= self._switch
        if is_number:
            sides = {float(sigma) >= self._switch}
        elif str(device) == "cpu":
            # Sending the answer back from an accelerator would cost more than the half that it spares.
            sides = {bool(xp.all(is_above)), bool(xp.any(is_above))}
        else:
            sides = {False, True}
        if sides == {False}:
            return self._shifted(x, levels)
        if sides == {True}:
            return self._remembered(self._particles, x, levels)
        is_above = xp.reshape(is_above, self._column)
        return xp.where(is_above, self._remembered(self._particles, x, levels), self._shifted(x, levels))

    @property
    def _column(self) -> tuple[int, ...]:
        return (-1, *(1 for _ in self.shape))

    def _shifted(self, x: Any, sigma: Any) -> Any:
        """D(x + σ²θ, σ)."""
        if self._is_base:
            return self._base.denoise(x, sigma)
        xp, device = array_api_compat.array_namespace(x), array_api_compat.device(x)
        key = (xp.__name__, str(x.dtype), str(device))
        if key not in self._device_copies:
            # Rounded on the host: not every device has float64.
            self._device_copies[key] = xp.asarray(np.array(self._theta), dtype=x.dtype, device=device)
        scale = xp.reshape(sigma, self._column)
        return self._base.denoise(x + scale**2 * self._device_copies[key], sigma)

    @staticmethod
    def _remembered(particles: Empirical, x: Any, sigma: Any) -> Any:
        """The posterior mean over the particles, worked out in single precision at least."""
        xp, dtype = array_api_compat.array_namespace(x), x.dtype
        if dtype.itemsize >= _LEAST_ITEMSIZE:
            return particles.denoise(x, sigma)
        return xp.astype(particles.denoise(xp.astype(x, xp.float32), xp.astype(sigma, xp.float32)), dtype)

    def tail_covariances(self) -> Iterator[Floats]:
        """Those of p, which a tilt leaves as they are; see `BaseLaw.tail_covariances`."""
        return self._base.tail_covariances()

    def __repr__(self) -> str:
        parts = [f"name={self.name!r}", f"shape={self.shape}", f"‖θ‖={np.linalg.norm(self._theta):.4g}"]
        if self._particles is not None:
            parts.append(f"switch={self._switch:.4g}")
        if not self.is_trustworthy:
            parts.append("beyond the model's calibration")
        return f"{type(self).__name__}({', '.join(parts)})"


def tilt(
    base: BaseLaw,
    theta: ArrayLike,
    *,
    seed: int = 0,
    calibrate: bool = True,
    particles: int | None = None,
    device: str = "auto",
    progress: Progress = None,
) -> BaseLaw:
    """The law q_θ ∝ p·exp⟨θ, x⟩, which is again a base law: for problems, and for samplers that are not ours.

    The result is called as k-diffusion calls a model, `denoised = law(x, sigma)`, so any sampler draws from q_θ with it
    at the cost of drawing from p. An analytic law gives its tilt in closed form, and an exact denoiser D gives
    D(v + σ²θ, σ). A learned one is annealed to q_θ once, in the time of some hundred evaluations of 4,096 rows: what
    comes of it denoises from the noise scale σ_r up, where the network knows nothing of inputs moved by σ²θ, and the
    network denoises below.

    Arguments:
        base: p, any of `ak.base`. Of a tilted law the tilts add up, and the fit is made anew from the first base.
        theta: θ, of the law's shape or flattened, in units of 1/x.
        seed: fixes the fit of a learned denoiser.
        calibrate: False takes D(v + σ²θ, σ) at every σ of a learned denoiser too, as is usual: it needs no fit, and is
            wrong where the network is asked far from what it was trained on.
        particles: how many draws the fit carries, a multiple of 16; None lets it choose, 4,096 of small laws. Fewer
            take less time, and leave larger standard errors, which the certificate states.
        device: of the fit: "auto", "cpu", "cuda", … as the engine names it.
        progress: told how far the fit is, as `progress(stage, done, total)`.

    Returns:
        a law of the same shape; of a denoiser a `TiltedLaw`, with `.theta`, `.switch`, `.particles` and `.calibration`.

    Raises:
        ParameterError: base is no base law; θ is empty; particles is no multiple of 16; the tilt is so strong that
            annealing does not end.
        ShapeError: θ has another shape.
        NonFiniteError: θ, or what the network returned, is not finite.
        BackendUnavailableError: no installed backend samples tilts of learned denoisers.

    Warns:
        CalibrationWarning: draws of the tilted law are off by more than 0.05 base standard deviations of ⟨θ, x⟩, or are
            worth fewer than 100 independent ones.

    Example:
        >>> import alignkit as ak
        >>> tilt(ak.base.Gaussian([0.0, 0.0], 1.0), [3.0, 4.0]).mean.tolist()
        [3.0, 4.0]
        >>> law = tilt(ak.base.digits(), [[0.25] * 8] * 8, calibrate=False)
        >>> law.sample(4, seed=0).shape
        (4, 8, 8)

    Source: "The tractability landscape of diffusion alignment", arXiv 2605.11361.
    """
    if not isinstance(base, BaseLaw):
        raise ParameterError(
            f"The base law must be one of ak.base, not {type(base).__name__}.",
            ways_out=[
                "Wrap a torch denoiser: ak.base.Denoiser(denoise, shape, sigma_min=…, sigma_max=…).",
                "Of a diffusers pipeline: ak.base.from_diffusers(pipeline), or ak.tilted_pipeline(pipeline, θ).",
            ],
        )
    seed, total = checked_seed(seed), _checked_theta(theta, base)
    if particles is not None:
        check_particles(particles)
    while isinstance(base, TiltedLaw):
        total, base = total + base.theta, base.base
    if isinstance(base, ExactLaw):
        return base.tilt(total)
    if base.exact or not calibrate or not total.any():
        return TiltedLaw(base, total)
    law = _calibrated(base, total, seed=seed, particles=particles, device=device, progress=progress)
    if not law.is_trustworthy:
        warnings.warn(_distrust(law), CalibrationWarning, stacklevel=2)
    return law


def tilted_pipeline(pipeline: Any, theta: Any, **options: Any) -> Any:
    """The user's own pipeline, sampling q_θ ∝ p·exp⟨θ, x⟩ with its own call, generator and callbacks.

    Arguments:
        pipeline: of diffusers, or of whatever an installed backend takes; it is left as it is.
        theta: θ, of the shape of one sample of the model (one latent of a latent model), in units of 1/x; or what
            `ak.tilt` made of the pipeline's base law, which spares a second fit.
        options: of the backend: `seed`, `calibrate` and `particles` mean the same as for `ak.tilt`.

    Returns:
        a pipeline of the same kind; its samples have the shapes (n, *shape) that the given one's have.

    Raises:
        BackendUnavailableError: no installed backend takes pipelines (install diffusers).

    Example:
        >>> import alignkit as ak
        >>> pipeline = DDPMPipeline.from_pretrained(path)  # doctest: +SKIP
        >>> ak.tilted_pipeline(pipeline, theta, seed=0)(batch_size=4).images  # doctest: +SKIP
    """
    return registry.offered("pipeline_tilt")(pipeline, theta, **options)


def _checked_theta(theta: ArrayLike, base: BaseLaw) -> Floats:
    """θ of the law's own shape."""
    if array_api_compat.is_torch_array(theta):
        theta = to_numpy(theta)
    values = finite_array(theta, "the tilt θ")
    if values.shape not in {base.shape, (base.ambient,)}:
        raise ShapeError(
            f"The tilt θ has shape {values.shape}, but the law {base.name!r} has shape {base.shape}.",
            ways_out=[f"Pass θ with shape {base.shape} or ({base.ambient},).", "Make one law for each tilt."],
        )
    return values.reshape(base.shape)


def _calibrated(
    base: BaseLaw, theta: Floats, *, seed: int, particles: int | None, device: str, progress: Progress
) -> TiltedLaw:
    """The law of a learned denoiser, annealed to q_θ: the KL problem of the reward ⟨θ, x⟩ at weight 1."""
    program = TiltProgram(base, theta.reshape(1, -1), np.ones((1, 1)), _ROWS, device)
    target = TiltTarget(program, None, 1.0, np.ones(1))
    session = _best_sampler(program).open(program)
    try:
        fitted = fit_annealed(target, session, seed=seed, particles=particles, progress=progress)
    except ParameterError as error:
        raise ParameterError(
            f"A tilt with ‖θ‖ = {np.linalg.norm(theta):.4g} is too strong for {base.name!r}: annealing towards it did "
            f"not end. {error.message}",
            ways_out=["Scale θ down.", "calibrate=False goes without a fit, and without a word on what comes of it."],
        ) from error
    return TiltedLaw(
        base,
        theta,
        particles=_kept(fitted, base),
        switch=max(fitted.sigma, base.sigma_min),
        certificate=fitted.moments.certify(1.0, 0.0, Guarantee.CALIBRATED.sentence),
    )


def _best_sampler(program: TiltProgram) -> TiltSampler:
    """Of the available backends' samplers the one with the best bid."""
    statuses = registry.installed_backends()
    answers = ask("tilt_sampler", program, "auto", statuses)
    best = next((answer for answer in answers if isinstance(answer, Bid)), None)
    if best is None:
        refusals = (f"{answer.backend}: {answer.reason}" for answer in answers if isinstance(answer, Refusal))
        raise BackendUnavailableError(
            f"No available backend samples tilts of {program.base.name!r}.",
            ways_out=["Install one: pip install torch.", *refusals],
        )
    sampler: TiltSampler = registry.require(best.backend, "tilt_sampler", statuses)()
    return sampler


def _kept(fitted: AnnealedTilt, base: BaseLaw) -> Empirical:
    """The particles of a fit with their weights, as many as may be kept."""
    count = len(fitted.weights)
    most = max(1, _PARTICLE_BYTES // (base.ambient * np.dtype(base.dtype).itemsize))
    # Particles of one ancestor lie side by side, so every s-th stands for all of them.
    stride = -(-count // most)
    chosen = np.arange(0, count, stride)
    rows = to_numpy(fitted.session.take(fitted.particles, chosen))
    return Empirical(rows, weights=fitted.weights[chosen], name=f"particles of {base.name}")


def _distrust(law: TiltedLaw) -> str:
    """What a warning says."""
    return (
        f"The tilt with ‖θ‖ = {np.linalg.norm(law.theta):.4g} is beyond what {law.base.name!r} is calibrated for: "
        f"deviation {law.calibration}; the particles are worth {law.ess:.0f} draws. Scale θ down, or compare with "
        "other seeds before relying on draws."
    )
