# %% [markdown]
# # What is tractable, and what the compiler says when it is not
#
# *My reward was refused. Is it me, the library, or mathematics, and what do I change?*
#
# Two things decide: the closeness you chose, and the curvature of the reward r(x) = f(Ax) + ⟨g, x⟩. Under KL the
# reward has to be convex in few features, under Wasserstein concave in any number, or Lipschitz in few. What lies
# outside is hard in the worst case, for every method ("The tractability landscape of diffusion alignment", arXiv
# 2605.11361).

# %%
import os
from contextlib import contextmanager

import numpy as np

import alignkit as ak
from alignkit import errors

FAST = os.environ.get("ALIGNKIT_FAST") == "1"  # fewer draws, for a quick check of this page

base = ak.base.Gaussian(np.zeros((8, 8)), 1.0)
x = ak.Variable(base.shape)
B = np.random.default_rng(0).normal(size=(4, 64))

# %% [markdown]
# Compiling is cheap and draws nothing, so the quickest way to know is to ask. The same rewards under both
# closenesses:

# %%
features = B @ ak.vec(x) / 8
rewards = {
    "affine": ak.mean(x),
    "convex, 4 features": ak.sum_squares(features) / 2,
    "maximum, 4 features": ak.max(features),
    "concave, 4 features": -ak.norm1(features - 1),
    "concave, all pixels": -ak.total_variation(x),
    "neither, 1 feature": ak.sin(ak.sum(x) / 8),
    "neither, all pixels": ak.sum(ak.sin(x)) + ak.norm2(x) / 9,
}


def verdict(reward, closeness):
    """The route that the compiler takes, or the name of its refusal."""
    try:
        return ak.Problem(reward, base, closeness).compile().route
    except errors.AlignkitError as error:
        return type(error).__name__


for name, reward in rewards.items():
    print(f"{name:<20} KL: {verdict(reward, ak.KL(weight=4.0)):<20} ", end="")
    print(f"Wasserstein: {verdict(reward, ak.Wasserstein(weight=4.0))}")

# %% [markdown]
# A convex reward can have a concave proximal problem: at this λ the cost of moving bends down more than the reward
# bends up, and the compiler proves it before it takes the route.

# %% [markdown]
# `problem.explain()` shows the whole of one: the tree of the reward with the curvature of every node, the node where
# a rule failed (✗), every route with why it was taken or not, and the changes that the compiler has *tried* and found
# tractable.

# %%
contrast = ak.norm1(x - x[:, ::-1])
print(ak.Problem(ak.mean(x) - contrast, base, ak.KL(weight=1.0)).explain())

# %% [markdown]
# ## The five errors you will meet first
#
# A message names your own sub-expression, the rule it broke, and the ways out. Each cell below makes a mistake and
# shows what is said, the next one is the fix. They are run by the tests, so that this page cannot go out of date.


# %%
@contextmanager
def refused(kind):
    """Shows the error that the block has to raise."""
    try:
        yield
    except kind as error:
        print(f"{type(error).__name__}: {error}")
    else:
        raise AssertionError(f"nothing raised {kind.__name__}")


# %% [markdown]
# ### 1 · Shapes that do not fit: `ShapeError`
#
# `@` is numpy's matrix product on x's own shape, so a map of the whole picture needs the picture as a vector.

# %%
with refused(errors.ShapeError):
    B @ x

# %%
print((B @ ak.vec(x)).shape)

# %% [markdown]
# ### 2 · A curvature that no route takes: `IntractableError`
#
# The contrast is to be *small*, so the reward is concave, and the closeness is KL.

# %%
with refused(errors.IntractableError):
    ak.Problem(ak.mean(x) - contrast, base, ak.KL(weight=1.0)).compile()

# %% [markdown]
# The fix here is the other closeness, under which concave rewards are tractable in any dimension.

# %%
print(ak.Problem(ak.mean(x) - contrast, base, ak.Wasserstein(weight=1.0)).compile().route)

# %% [markdown]
# ### 3 · A reward that outgrows the price of moving: `UnboundedTransportError`
#
# Under Wasserstein closeness each draw x moves to the y that maximises r(y) − λ·½‖x − y‖². Where r grows faster than
# the cost there is none; the critical λ is part of the message.

# %%
energy = ak.sum_squares(x[0])
with refused(errors.UnboundedTransportError):
    ak.Problem(energy, base, ak.Wasserstein(weight=1.5)).compile()

# %% [markdown]
# The fix is a larger λ, or a reward that grows less.

# %%
print(ak.Problem(energy, base, ak.Wasserstein(weight=2.5)).compile().route)
print(ak.Problem(-ak.sum(ak.huber(x[0] - 1.0)), base, ak.Wasserstein(weight=0.5)).compile().route)

# %% [markdown]
# ### 4 · A target that is no probability law: `ImproperTargetError`
#
# Under KL the target is p·exp(r/λ), which needs a finite normaliser: the reward must not outgrow λ times the decay of
# p.

# %%
with refused(errors.ImproperTargetError):
    ak.Problem(energy, base, ak.KL(weight=1.5)).compile()

# %% [markdown]
# The fix is again a larger λ. A model of your own whose draws are bounded should say so: `ak.base.Denoiser(…,
# tail="bounded")`, and then this error cannot arise for such a reward.

# %%
print(ak.Problem(energy, base, ak.KL(weight=2.5)).compile().route)

# %% [markdown]
# ### 5 · A backend that cannot: `BackendRefusedError`, `BackendUnavailableError`
#
# Each backend answers a problem with a bid, or with a refusal and its reason. Insisting on one means living with its
# refusal; one that is not installed is named with the command that installs it.

# %%
norm = ak.Problem(-ak.norm2(features), base, ak.Wasserstein(weight=1.0))
with refused(errors.BackendRefusedError):
    norm.compile(backend="torch")
with refused(errors.BackendUnavailableError):
    norm.compile(backend="gurobi")

# %% [markdown]
# The fix is to let the compiler choose. `backends()` prints all bids.

# %%
print(norm.compile().backend)
print(norm.backends())

# %% [markdown]
# ## From a refusal to a result
#
# Take the second error to its end on real digits: as symmetric as they can be for what it costs to move them. Under
# KL it was refused; under Wasserstein every row comes with a bound on how far it is from the best there is.

# %%
digits = ak.base.digits()
x = ak.Variable(digits.shape)
symmetric = ak.Problem(-ak.norm1(x - x[:, ::-1]), digits, ak.Wasserstein(weight=2.0)).solve(seed=0)
print(symmetric.certificate)

# %%
rows = 64 if FAST else 512
moved = symmetric.transport(digits.sample(rows, seed=1), return_details=True)
print(f"{rows} draws moved, {moved.unfinished.sum()} unfinished, largest gap {moved.gap.max():.1e}")

# %%
symmetric.plot.samples(seed=2)

# %% [markdown]
# **Where next.** [03](03_low_rank_convex_rewards.py) for convex rewards under KL, [04](04_wasserstein_editing.py) for
# concave ones under Wasserstein, [05](05_lipschitz_rewards.py) for rewards with no curvature at all.
