"""What the digits model is measured by: its draws against held-out digits, and against themselves after a tilt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit_torch.digits import SIGMA_MIN
from alignkit_torch.digits_data import Digits
from alignkit_torch.network import PIXELS
from alignkit_torch.solvers import Denoise, solve_flow

__all__ = ["quality", "self_consistency"]


@torch.inference_mode()
def self_consistency(
    denoise: Denoise,
    draws: Tensor,
    strengths: Sequence[float] = (1.0, 2.0, 4.0),
    levels: Sequence[float] = (0.5, 1.0, 2.0),
    seed: int = 0,
) -> list[dict[str, float | str]]:
    """How far renoising to σ_r and denoising back moves the law of ⟨u, x⟩, with and without a tilt.

    Args:
        denoise: the model.
        draws: its own draws (n, 8, 8). For a tilt θ = s·u they are resampled with weights exp⟨θ, x⟩ first.
        strengths: the norms of the tilts, beside none.
        levels: the σ_r.
        seed: of the renoising.

    Returns:
        One row per (u, s, σ_r): the change of the mean in standard deviations of ⟨u, x⟩ under the draws, its standard
        error, the ratio of the standard deviations after and before, and the resampling's effective sample size.
    """
    top = torch.zeros(8, 8)
    top[:4] = 1
    units = {"brightness": torch.ones(8, 8) / 8, "top half": top / top.norm()}
    plan = [("none", 0.0), *((name, strength) for name in units for strength in strengths)]
    rows: list[dict[str, float | str]] = []
    n = len(draws)
    for tilt_name, strength in plan:
        theta = strength * units.get(tilt_name, top)
        weights = torch.softmax((draws * theta).sum((1, 2)), dim=0)
        # Systematic resampling: with no tilt it returns every draw once.
        generator = torch.Generator().manual_seed(seed)
        points = (torch.arange(n) + 0.5).double() / n
        before = draws[torch.searchsorted(weights.double().cumsum(0), points).clamp(max=n - 1)]
        for level in levels:
            noisy = before + level * torch.randn(before.shape, generator=generator)
            after = torch.cat(
                [
                    solve_flow(denoise, part, SIGMA_MIN, level, nfe=31, tilt=theta if strength else None)
                    for part in noisy.split(2048)
                ]
            )
            for name, unit in units.items():
                if tilt_name not in ("none", name):
                    continue
                old, new, base = ((images * unit).sum((1, 2)) for images in (before, after, draws))
                rows.append(
                    {
                        "direction": name,
                        "strength": strength,
                        "sigma": level,
                        "mean_change_sd": ((new - old).mean() / base.std()).item(),
                        "standard_error": ((new - old).std() / base.std() / n**0.5).item(),
                        "sd_ratio": (new.std() / old.std()).item(),
                        "effective_sample_size": weights.square().sum().reciprocal().item(),
                    }
                )
    return rows


def sliced_distance(first: Tensor, second: Tensor, projections: int = 256) -> float:
    """The sliced 2-Wasserstein distance of two equally large sets of digits (n, 8, 8) over fixed random projections."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(PIXELS, projections, generator=generator)
    axes /= axes.norm(dim=0)
    one, other = ((images.reshape(-1, PIXELS) @ axes).sort(dim=0).values for images in (first, second))
    return (one - other).square().mean().sqrt().item()


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation of repeated measurements."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}


def quality(data: Digits, draws: Tensor, repeats: int = 20) -> dict[str, object]:
    """Draws (n, 8, 8) against held-out digits: sliced distances, a classifier's verdicts, nearest training digits."""
    from sklearn.linear_model import LogisticRegression

    size = len(data.held_out)
    generator = torch.Generator().manual_seed(0)
    real = torch.cat([data.train, data.held_out])
    drawn, halves, training = [], [], []
    for _ in range(repeats):
        drawn.append(sliced_distance(draws[torch.randperm(len(draws), generator=generator)[:size]], data.held_out))
        order = torch.randperm(len(real), generator=generator)
        halves.append(sliced_distance(real[order[:size]], real[order[size : 2 * size]]))
        order = torch.randperm(len(data.train), generator=generator)
        training.append(sliced_distance(data.train[order[:size]], data.held_out))

    def flat(images: Tensor) -> NDArray[np.float32]:
        return images.reshape(-1, PIXELS).numpy()

    classifier = LogisticRegression(C=0.1, max_iter=2000).fit(flat(data.train), data.train_labels)
    on_draws, on_held_out = (classifier.predict_proba(flat(images)) for images in (draws, data.held_out))

    def shares(labels: NDArray[np.int64]) -> list[float]:
        found: list[float] = (np.bincount(labels, minlength=10) / len(labels)).tolist()
        return found

    def nearest(images: Tensor) -> dict[str, float]:
        distances = torch.cdist(images.reshape(-1, PIXELS), data.train.reshape(-1, PIXELS)).amin(1)
        return {"median": distances.median().item(), "quantile_05": distances.quantile(0.05).item()}

    return {
        "sliced_w2": {
            "sample_size": size,
            "draws_vs_held_out": spread(drawn),
            "train_vs_held_out": spread(training),
            "real_vs_real": spread(halves),
        },
        "classifier": {
            "held_out_accuracy": float(classifier.score(flat(data.held_out), data.held_out_labels)),
            "shares_data": shares(np.concatenate([data.train_labels, data.held_out_labels])),
            "shares_draws": shares(on_draws.argmax(1)),
            "confidence_held_out": float(on_held_out.max(1).mean()),
            "confidence_draws": float(on_draws.max(1).mean()),
        },
        "nearest_training_digit": {"draws": nearest(draws), "held_out": nearest(data.held_out)},
    }
