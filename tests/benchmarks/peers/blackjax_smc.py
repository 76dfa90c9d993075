"""blackjax's adaptive tempered SMC with HMC moves, from draws of p, given the density of p."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.benchmarks.kl_exact import VARIANCE, Counted
from tests.benchmarks.peers.peer import Drawn, Sampler
from tests.benchmarks.problems import Case

ESS_TARGETS, MOVES = (0.7, 0.9), (4, 12)


def tempered(case: Case, denoiser: Counted, budget: int) -> Mapping[str, Sampler]:
    """Particles from p itself to q (Dai et al., arXiv 2007.11936); evaluations of the density are not counted."""
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import extend_params, resampling

    mixture = case.mixture
    assert mixture is not None
    jax.config.update("jax_enable_x64", True)
    means = jnp.asarray(mixture.means)
    parameters = {"step_size": 0.3, "inverse_mass_matrix": jnp.ones(case.law.ambient), "num_integration_steps": 5}

    def made(ess: float, moves: int) -> Sampler:
        kernel = blackjax.adaptive_tempered_smc(
            lambda x: jax.nn.logsumexp(-((x - means) ** 2).sum(-1) / (2 * VARIANCE)),
            lambda x: case.exponent(x[None])[0],
            blackjax.hmc.build_kernel(),
            blackjax.hmc.init,
            extend_params(parameters),
            resampling.systematic,
            ess,
            num_mcmc_steps=moves,
        )
        step = jax.jit(kernel.step)

        def sample(rows: int, seed: int) -> Drawn:
            state: Any = kernel.init(jnp.asarray(mixture.sample(rows, seed=seed)))
            key, log_partition = jax.random.key(seed), 0.0
            while float(state.tempering_param) < 1:
                key, now = jax.random.split(key)
                state, info = step(now, state)
                log_partition += float(info.log_likelihood_increment)
            # A step resamples by the weights of the one before: those of the last are still to be spent.
            key, now = jax.random.split(key)
            chosen = resampling.systematic(now, state.weights, rows)
            return Drawn(np.asarray(state.particles[chosen]), log_partition)

        return sample

    return {f"ESS {ess:g}, {moves} moves": made(ess, moves) for ess, moves in itertools.product(ESS_TARGETS, MOVES)}
