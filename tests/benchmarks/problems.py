"""Problems under KL with known answers: laws known through their denoisers, convex rewards, draws of q ∝ p·exp(r/λ)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import alignkit as ak
from tests.benchmarks.digits import convex_rewards, reference_draws
from tests.benchmarks.kl_exact import EXAMPLES, MAP, VARIANCE, Truth
from tests.benchmarks.mixture import known_by_denoiser, law
from tests.benchmarks.rank_eight import MODES, RankEight

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Square:
    """exp(r/λ) = exp(‖w‖²/2v), w = Ax − b: the likelihood of the observation b with the noise variance −v.

    Attributes:
        seen: w, an expression of x.
        variance: v.
    """

    seen: ak.Expression
    variance: float


@dataclass(frozen=True, eq=False)
class Case:
    """One problem and its answer.

    Attributes:
        name: of law and reward.
        law: p, through a denoiser that torch can differentiate.
        reward: r, which numpy, torch and jax evaluate alike.
        weight: λ.
        draw: (rows, seed) to draws of q, (rows, *shape), made without any sampler of the benchmark.
        log_partition: log E_p exp(r/λ).
        square: where r is quadratic.
        mixture: p itself, with components N(m_i, VARIANCE·I), for samplers that are given its density; None where
            nobody knows it.
    """

    name: str
    law: ak.base.Denoiser
    reward: ak.Expression
    weight: float
    draw: Callable[[int, int], NDArray[Any]]
    log_partition: float
    square: Square | None = None
    mixture: ak.base.GaussianMixture | None = None

    def exponent(self, x: Any) -> Any:
        """r(x)/λ of x (n, *shape), (n,), of x's kind."""
        return self.reward.value(x) / self.weight


def cases(digits: bool = True) -> Iterator[Case]:
    """All of them; those on the digits model draw its reference once, which takes minutes."""
    yield from _rank_two()
    yield _rank_eight()
    if digits:
        yield from _digits()


def _rank_two() -> Iterator[Case]:
    mixture = law()
    x = ak.Variable(mixture.shape)
    probe = np.random.default_rng(0).normal(size=(100, mixture.ambient)) * 3
    for example in EXAMPLES:
        seen = MAP @ x
        reward = example.declared(seen)
        # The truth is made from a second definition of the reward.
        assert np.allclose(reward.value(probe), example.value(probe @ MAP.T)), example.name
        truth = Truth(mixture, example)
        yield Case(
            f"16-dim {example.name}",
            known_by_denoiser(mixture),
            reward,
            example.weight,
            truth.draw,
            truth.log_partition,
            Square(seen, example.weight) if example.name == "½‖w‖²" else None,
            mixture,
        )


def _rank_eight() -> Case:
    wide = RankEight.drawn()
    mixture = ak.base.GaussianMixture(np.full(MODES, 1 / MODES), wide.means, VARIANCE)
    gain = 1 / (1 - wide.strength * VARIANCE) - 1
    exact = ak.base.GaussianMixture(
        wide.weights,
        wide.means + gain * wide.seen @ wide.rows,
        np.repeat(VARIANCE * (np.eye(mixture.ambient) + gain * wide.rows.T @ wide.rows)[None], MODES, axis=0),
    )
    seen = wide.rows @ ak.Variable(mixture.shape)
    return Case(
        "64-dim ½‖w‖², rank 8",
        known_by_denoiser(mixture),
        0.5 * ak.sum_squares(seen),
        1 / wide.strength,
        lambda rows, seed: exact.sample(rows, seed=seed),
        wide.log_partition,
        Square(seen, 1 / wide.strength),
        mixture,
    )


def _digits() -> Iterator[Case]:
    """q by the weights exp(r/λ) on many draws of the model itself, which is all that can be known of it."""
    from alignkit_torch.digits import load_denoiser

    shipped, network = ak.base.digits(), load_denoiser()

    def denoise(x: Any, sigma: Any) -> Any:
        # As the shipped law does, but with gradients: the embedding of one level serves all rows.
        levels = sigma[:1] if bool((sigma == sigma[0]).all()) else sigma
        return network(x.float(), levels.float()).to(x.dtype)

    base = ak.base.Denoiser(
        denoise,
        shipped.shape,
        sigma_min=shipped.sigma_min,
        sigma_max=shipped.sigma_max,
        tail=shipped.tail,
        data_range=shipped.data_range,
        dtype=shipped.dtype,
        name=shipped.name,
    )
    rewards = convex_rewards(ak.Variable(base.shape))
    pool = reference_draws(shipped, lambda some: [reward.value(some) / weight for reward, weight in rewards.values()])
    for name, (reward, weight) in rewards.items():
        logs = np.asarray(reward.value(pool), dtype=np.float64) / weight
        log_partition = float(np.logaddexp.reduce(logs) - np.log(len(logs)))
        shares = np.exp(logs - log_partition) / len(logs)
        yield Case(
            f"digits {name}",
            base,
            reward,
            weight,
            lambda rows, seed, shares=shares: pool[np.random.default_rng(seed).choice(len(pool), rows, p=shares)],
            log_partition,
            Square(reward.args[0], weight / 2) if name == "quadratic" else None,
        )
