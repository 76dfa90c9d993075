"""The choice between engines, and the one call that fits a tilt."""

from __future__ import annotations

from typing import Literal

from alignkit.contracts import DenoisingTiltSession, Progress, TiltProgram, TiltSampler
from alignkit.errors import ParameterError
from alignkit.tilting.annealed import fit_annealed, particle_count
from alignkit.tilting.direct import fit_direct
from alignkit.tilting.fitted import FittedTilt

__all__ = ["Engine", "choose_engine", "fit_tilt"]

Engine = Literal["auto", "direct", "annealed"]


def choose_engine(program: TiltProgram, engine: str) -> Engine:
    """The engine for a program: direct for exact laws and denoisers, annealed for learned ones.

    Arguments:
        program: the tilt wanted.
        engine: "auto", "direct" or "annealed".

    Raises:
        ParameterError: an unknown engine, or the direct one on a learned denoiser, where it is wrong.
    """
    if engine not in {"auto", "direct", "annealed"}:
        raise ParameterError(f"Unknown engine {engine!r}.", ways_out=["Use 'auto', 'direct' or 'annealed'."])
    if engine == "direct" and not program.base.exact:
        raise ParameterError(
            f"engine='direct' starts the tilted denoiser at σ_max, where the network of {program.base.name!r} "
            "never saw such inputs: its draws and its log-partition would be wrong.",
            ways_out=[
                "Use engine='annealed' (or 'auto').",
                "Declare Denoiser(exact=True) if it is the true posterior mean.",
            ],
        )
    if engine == "auto":
        return "direct" if program.base.exact else "annealed"
    return "direct" if engine == "direct" else "annealed"


def fit_tilt(
    program: TiltProgram, sampler: TiltSampler, *, engine: str = "auto", seed: int, progress: Progress = None
) -> FittedTilt:
    """Fit the one tilt of a program.

    Arguments:
        program: one direction θ, at coordinate 1.
        sampler: the backend's.
        engine: "auto", "direct" or "annealed".
        seed: fixes every draw of the fit.
        progress: told how far it is.

    Returns:
        a sampler of q_θ with what the fit measured.

    Raises:
        ParameterError: the engine does not exist, or does not fit the law or the backend.
    """
    chosen = choose_engine(program, engine)
    session = sampler.open(program)
    if chosen == "direct":
        return fit_direct(program, session, seed=seed, progress=progress)
    if session.nfe_per_draw == 0:
        raise ParameterError(
            "engine='annealed' moves particles with a denoiser, and the backend 'exact' draws in closed form.",
            ways_out=["Use engine='auto'.", "Use backend='torch' to anneal all the same."],
        )
    denoising: DenoisingTiltSession = session  # type: ignore[assignment]  # evaluations are a denoiser's
    return fit_annealed(denoising, seed=seed, particles=particle_count(program.base.ambient), progress=progress)
