"""The choice between engines, and the one call that fits a target."""

from __future__ import annotations

from typing import Literal

from alignkit.contracts import Progress, TiltSampler
from alignkit.errors import ParameterError
from alignkit.tilting.annealed import fit_annealed
from alignkit.tilting.direct import fit_direct
from alignkit.tilting.fitted import FittedTilt
from alignkit.tilting.pooled import fit_pooled
from alignkit.tilting.selection import has_finite_measure
from alignkit.tilting.target import TiltTarget

__all__ = ["ENGINES", "Engine", "choose_engine", "fit_tilt"]

Engine = Literal["auto", "direct", "annealed"]

#: What the engines do, in a sentence.
ENGINES: dict[str, str] = {
    "direct": "direct: a tilt by its share of the mixture, then a draw of that tilt; independent draws",
    "annealed": "annealed: particles carried from p to q through mixtures of growing tilts, then a fresh move each; "
    "where log Z of a tilt is exact, they propose tilts that it weighs, then a draw of one each",
}


def choose_engine(target: TiltTarget, engine: str) -> Engine:
    """The engine for a target: direct where a few tilts make it up and the denoiser is exact, else annealed.

    Arguments:
        target: the law wanted.
        engine: "auto", "direct" or "annealed".

    Raises:
        ParameterError: an unknown engine; or the direct one on a learned denoiser, where it is wrong, or for a reward
            that takes too many tilts.
    """
    if engine not in {"auto", "direct", "annealed"}:
        raise ParameterError(f"Unknown engine {engine!r}.", ways_out=["Use 'auto', 'direct' or 'annealed'."])
    base, nonlinear = target.program.base, target.nonlinear
    has_few_tilts = nonlinear is None or has_finite_measure(nonlinear)
    if engine == "direct" and not base.exact:
        raise ParameterError(
            f"engine='direct' starts the tilted denoiser at σ_max, where the network of {base.name!r} "
            "never saw such inputs: its draws and its log-partition would be wrong.",
            ways_out=[
                "Use engine='annealed' (or 'auto').",
                "Declare Denoiser(exact=True) if it is the true posterior mean.",
            ],
        )
    if engine == "direct" and not has_few_tilts:
        raise ParameterError(
            f"engine='direct' lists the tilts that make up the law, too many with k = {target.dimension}.",
            ways_out=["Use engine='annealed' (or 'auto'), which takes any k."],
            expression=str(nonlinear),
        )
    if engine == "auto":
        return "direct" if base.exact and has_few_tilts else "annealed"
    return "direct" if engine == "direct" else "annealed"


def fit_tilt(
    target: TiltTarget,
    sampler: TiltSampler,
    *,
    engine: str = "auto",
    particles: int | None = None,
    seed: int,
    progress: Progress = None,
) -> FittedTilt:
    """Fit a target.

    Arguments:
        target: the law wanted.
        sampler: the backend's.
        engine: "auto", "direct" or "annealed".
        particles: how many the annealed engine carries, or tilts it pools; its own choice if None.
        seed: fixes every draw of the fit.
        progress: told how far it is.

    Returns:
        a sampler of q with what the fit measured.

    Raises:
        ParameterError: the engine does not exist, or does not fit the law or the reward.
    """
    chosen = choose_engine(target, engine)
    session = sampler.open(target.program)
    if chosen == "direct":
        return fit_direct(target, session, seed=seed, progress=progress)
    if target.program.base.exact:
        return fit_pooled(target, session, seed=seed, tilts=particles, progress=progress)
    return fit_annealed(target, session, seed=seed, particles=particles, progress=progress)
