# %% [markdown]
# # 3 · Rewards with several ways to be good
#
# *My reward likes draws that are extreme in some features, or close to any one of several templates. What does the
# aligned law look like, and how do I know that the sampler draws from it?*
#
# A convex reward rewards extremes: far out in some directions, the best of several scores, a soft version of that best.
# Under KL closeness it pulls the law apart into several modes, which is where guided samplers go wrong: they find one
# mode and give it the wrong mass. Here the aligned law is a mixture of linear tilts, each of which is sampled by the
# model itself. The model of this page is one whose truth is known, so that everything can be checked.

# %%
import os

import numpy as np
from matplotlib.figure import Figure

import alignkit as ak

FAST = os.environ.get("ALIGNKIT_FAST") == "1"
DRAWS = 500 if FAST else 2000
WEIGHT = 1.0
rng = np.random.default_rng(0)

# %% [markdown]
# ## A diffusion model with a known truth
#
# A mixture of eight Gaussians in 16 dimensions. alignkit is only given its denoiser E[x₀ | x_σ = x], as it would be
# given a network; `exact=True` promises that there is no training error, and `tail` says how fast p decays.

# %%
DIMENSION, VARIANCE = 16, 0.2
means = 1.5 * rng.normal(size=(8, DIMENSION))
mixture = ak.base.GaussianMixture(np.full(8, 1 / 8), means, VARIANCE)
base = ak.base.Denoiser(
    mixture.denoise, (DIMENSION,), sigma_min=0.002, sigma_max=80.0, exact=True, tail=VARIANCE, name="model"
)

# %% [markdown]
# ## Three rewards of two features
#
# `w = Q x` are two features of a draw. What makes a reward tractable is that it sees x through few features, and that
# it is convex in them; how many coordinates x has does not matter.

# %%
Q = np.linalg.qr(rng.normal(size=(DIMENSION, 2)))[0].T
templates = np.array([[2.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]])
x = ak.Variable(DIMENSION)
w = Q @ x
rewards = {
    "quadratic": 0.75 * ak.sum_squares(w),
    "best template": ak.max(templates @ w),
    "soft best template": 2 * ak.log_sum_exp(templates @ w),
}
print(ak.Problem(rewards["best template"], base, ak.KL(weight=WEIGHT)).explain())

# %% [markdown]
# The line `seen as` is the reward as a function of the features, `dimension` their number k; three templates in a plane
# are two features. The route is a mixture of tilts. Which mixture depends on the reward: a lattice of tilts for the
# quadratic, a cover with rejection for the maximum, and for the log-sum-exp draws of labels, as 2/λ is a whole number.

# %%
aligned = {name: ak.Problem(reward, base, ak.KL(weight=WEIGHT)).solve(seed=0) for name, reward in rewards.items()}
draws = {name: one.sample(DRAWS, seed=1) @ Q.T for name, one in aligned.items()}
for name, one in aligned.items():
    print(f"{name:20}{one.certificate.details['tilts']}")

# %% [markdown]
# ## The truth beside it
#
# In the plane of the features p is a mixture of eight Gaussians too, so that the truth q ∝ p·exp(r/λ) can be written on
# a grid there, and its integrals taken by summing.

# %%
ticks = np.linspace(-9.0, 9.0, 721)
plane = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
cell = (ticks[1] - ticks[0]) ** 2
squares = sum(((plane[:, :, None, axis] - (means @ Q.T)[:, axis]) ** 2 for axis in range(2)), start=np.zeros(()))
density = np.exp(-squares / (2 * VARIANCE)).mean(axis=2) / (2 * np.pi * VARIANCE)
scores = plane @ templates.T
values = {
    "quadratic": 0.75 * (plane**2).sum(axis=2),
    "best template": scores.max(axis=2),
    "soft best template": 2 * np.logaddexp.reduce(scores, axis=2),
}
truth = {name: density * np.exp(value / WEIGHT) for name, value in values.items()}

print(f"{'':20}{'log partition':>24}{'truth':>8}{'mean reward':>22}{'truth':>8}")
for name, one in aligned.items():
    log_partition = np.log(truth[name].sum() * cell)
    mean_reward = (truth[name] * values[name]).sum() / truth[name].sum()
    certificate = one.certificate
    print(
        f"{name:20}{certificate.log_partition!s:>24}{log_partition:8.3f}"
        f"{certificate.reward_after!s:>22}{mean_reward:8.3f}"
    )

# %% [markdown]
# What guided samplers get wrong is the mass of the modes. Each draw is given to the template that it scores best on,
# and the shares are compared with those of the truth, in standard errors.

# %%
for name in rewards:
    cells = scores.argmax(axis=2)
    masses = np.array([truth[name][cells == mode].sum() for mode in range(3)]) / truth[name].sum()
    shares = np.bincount((draws[name] @ templates.T).argmax(axis=1), minlength=3) / DRAWS
    z = (shares - masses) / np.sqrt(np.maximum(masses * (1 - masses), 1 / DRAWS) / DRAWS)
    print(f"{name:20}draws {shares.round(3)}   truth {masses.round(3)}   standard errors off {z.round(1)}")

# %% [markdown]
# ## Two wrong turns
#
# A quadratic may outgrow the tails of p: below a critical λ the aligned law does not exist. Of the mixture all tails
# are known, and the message names that λ; of a denoiser they are not, and `explain()` ends with a warning instead. A
# concave reward pulls the law together, and under KL that is hard in the worst case, even with one feature.

# %%
for reward, law, weight in ((rewards["quadratic"], mixture, 0.2), (-ak.norm1(w), base, WEIGHT)):
    try:
        ak.Problem(reward, law, ak.KL(weight=weight)).solve(seed=0)
    except (ak.errors.ImproperTargetError, ak.errors.IntractableError) as error:
        print(type(error).__name__, "·", error, "\n")

# %% [markdown]
# ## The certificate and the picture
#
# `acceptance` is the price of the maximum: where the mixture of tilts is only a bound, some proposals are thrown away.

# %%
print(aligned["best template"].certificate)


# %%
def draws_on_truth() -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3, sharex=True, sharey=True), rewards, strict=True):
        axes.contour(ticks, ticks, density.T, levels=6, colors="#8a929b", linewidths=0.7)
        axes.plot(*draws[name].T, ".", markersize=2, alpha=0.5, color="#0072b2")
        levels = truth[name].max() * np.array([0.003, 0.03, 0.3])
        axes.contour(ticks, ticks, truth[name].T, levels=levels, colors="#d55e00", linewidths=0.9)
        axes.set(title=name, xlabel="w₀", aspect="equal", xlim=(-6, 6), ylim=(-6, 6))
    return figure


draws_on_truth()

# %% [markdown]
# Grey is the model, orange the truth, blue what alignkit drew. The tilts themselves can be looked at as well:

# %%
aligned["quadratic"].plot.tilts()

# %% [markdown]
# **Where next:** tutorial 4 takes the concave rewards that KL refuses; tutorial 6 puts conditions on the law itself.
