# %% [markdown]
# # 9 · KL against Wasserstein on the same reward
#
# *Both closenesses take my reward. Which one do I want?*
#
# KL closeness keeps q where the model has mass, and gives more of that mass to draws with reward: it *chooses*.
# Wasserstein closeness lets every draw go a short way, wherever that leads: it *moves*. The same reward, and even the
# same reward achieved, can mean different pictures.

# %%
import os

import numpy as np
from matplotlib.figure import Figure

import alignkit as ak

FAST = os.environ.get("ALIGNKIT_FAST") == "1"
DRAWS, MODEL_DRAWS = (500, 1000) if FAST else (2000, 4000)

# %% [markdown]
# ## In the plane, where it can be seen
#
# A mixture of four modes, all of them narrow, and a reward for going to the right. It is affine, so that both
# closenesses solve it in closed form.

# %%
modes = np.array([[-2.0, -1.5], [-2.0, 1.5], [0.0, 0.0], [2.5, 0.5]])
VARIANCE = 0.05
base = ak.base.GaussianMixture([0.4, 0.3, 0.2, 0.1], modes, VARIANCE)
x = ak.Variable(2)
reward = x[0]
print(ak.Problem(reward, base, ak.KL(weight=1.0)).explain())

# %% [markdown]
# λ has other units in either: reward per nat, and reward per squared distance. To compare, let both achieve the same
# reward: KL within some nats, then Wasserstein at the λ that gains as much. Here T is a shift by 1/λ to the right,
# which gains 1/λ at a cost of ½(1/λ)².

# %%
aligned = {}
print("shares of the modes; under Wasserstein each is looked for where the shift has put it")
for nats in (0.1, 0.3, 1.0):
    kl = ak.Problem(reward, base, ak.KL(radius=nats)).solve(seed=0)
    gain = float(kl.certificate.reward_after) - float(kl.certificate.reward_before)
    wasserstein = ak.Problem(reward, base, ak.Wasserstein(weight=1 / gain)).solve(seed=0)
    aligned[nats] = kl, wasserstein
    shares = []
    for one, shift in ((kl, 0.0), (wasserstein, gain)):
        centres = modes + np.array([shift, 0.0])
        nearest = np.square(one.sample(DRAWS, seed=1)[:, None] - centres).sum(axis=2).argmin(axis=1)
        shares.append(np.bincount(nearest, minlength=4) / DRAWS)
    print(f"{nats} nats, gain {gain:.3f}: KL {shares[0].round(2)}, Wasserstein {shares[1].round(2)}")

# %% [markdown]
# Under KL the modes hardly move and their shares change; how far the reward can rise is up to what the model draws.
# Under Wasserstein the shares stay as they are and the modes move, soon into places where the model never was. How far
# out that is can be asked of the model, whose log-density is known here.


# %%
def log_density(points):
    squares = np.square(points[:, None] - modes).sum(axis=2)
    return np.logaddexp.reduce(np.log(base.weights) - squares / (2 * VARIANCE), axis=1) - np.log(2 * np.pi * VARIANCE)


draws = {"model": base.sample(DRAWS, seed=1)}
draws["KL"], draws["Wasserstein"] = (one.sample(DRAWS, seed=1) for one in aligned[1.0])
for name, points in draws.items():
    print(f"{name:12}mean reward {points[:, 0].mean():6.3f}, mean log p {log_density(points).mean():7.2f}")


# %%
def in_the_plane() -> Figure:
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, 3, sharex=True, sharey=True), draws.items(), strict=True):
        axes.plot(*draws["model"].T, ".", markersize=2, color="#c9ced5")
        if name != "model":
            axes.plot(*points.T, ".", markersize=2, color="#0072b2")
        axes.set(title=name, xlabel="x₀ = reward", aspect="equal")
    return figure


in_the_plane()

# %% [markdown]
# ## A reward that one of them refuses
#
# Curvature decides too. A reward for extremes is convex, and tractable under KL at any λ that the tails of p allow;
# under Wasserstein only above a critical λ. A reward for agreement is concave: KL refuses it, Wasserstein does not.

# %%
candidates = {"affine": x[0], "convex": ak.square(x[0]), "concave": -ak.abs(x[0] - 1.0), "neither": ak.sin(3 * x[0])}
for name, candidate in candidates.items():
    answers = [ak.Problem(candidate, base, closeness) for closeness in (ak.KL(weight=1), ak.Wasserstein(weight=1))]
    kl, wasserstein = ("tractable" if problem.is_tractable() else "refused" for problem in answers)
    print(f"{name:9}{candidate!s:18}KL {kl:11}Wasserstein {wasserstein}")

# %% [markdown]
# ## On digits
#
# More ink in the upper half than in the lower. So that KL takes a moment here, the law is that of finitely many
# draws of the shipped model: the aligned law under KL then chooses among them. (Tutorial 1 aligns the model itself.)

# %%
pictures = ak.base.digits().sample(MODEL_DRAWS, seed=0)
digits = ak.base.Empirical(pictures, name="draws of the digits model")
y = ak.Variable(digits.shape)
top_heavy = ak.sum(y[:4]) - ak.sum(y[4:])
by_choice = ak.Problem(top_heavy, digits, ak.KL(radius=1.0)).solve(seed=0)
distance = float(by_choice.certificate.reward_after) - float(by_choice.certificate.reward_before)
# The gradient of the reward has 64 entries of ±1: T shifts by 1/λ in each, and the reward rises by 64/λ.
by_moving = ak.Problem(top_heavy, digits, ak.Wasserstein(weight=64 / distance)).solve(seed=0)
print(by_choice.certificate, by_moving.certificate, sep="\n\n")

# %% [markdown]
# Both gain the same reward, and the pictures are not alike. Under KL they are digits that the model draws,
# more of those with ink above. Under Wasserstein they are the digits of before, one half a little darker and the other
# a little lighter, everywhere alike, so that ink and paper leave the range of pixels that the model keeps to:

# %%
chosen, (origin, shifted) = by_choice.sample(DRAWS, seed=1), by_moving.sample(DRAWS, seed=1, return_base=True)
for name, batch in (("before", origin), ("KL", chosen), ("Wasserstein", shifted)):
    outside = (np.abs(batch) > 1.05).mean()
    print(f"{name:12}{outside:6.1%} of pixels outside [−1.05, 1.05], lower half {batch[:, 4:].mean():6.3f} on average")

# %% [markdown]
# Pairs of before and after exist under Wasserstein alone; under KL a draw comes from no other, and asking says so.

# %%
try:
    by_choice.sample(4, seed=1, return_base=True)
except ak.errors.ParameterError as error:
    print(error)

# %% [markdown]
# So: *KL* to have draws that look as if the model had made them; it cannot edit. *Wasserstein* to edit given pictures,
# to keep every mode, or to go further than the model does; it knows nothing of what is likely.

# %%
by_choice.plot.samples()

# %%
by_moving.plot.samples()

# %% [markdown]
# **Where next:** tutorial 3 for convex rewards under KL, tutorial 4 for concave ones under Wasserstein, with edits that
# leave alone what the reward does not ask for.
