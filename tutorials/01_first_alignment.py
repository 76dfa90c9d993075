# %% [markdown]
# # First alignment: more of what you like, and what it costs
#
# *I have a diffusion model, and a score for what it draws. How do I get a sampler that scores higher, how far does it
# leave the model behind, and how would I know that it is right?*
#
# alignkit takes the model's law p and your reward r, and fits a sampler of the law q that
# maximises E_q[r(x)] − λ·KL(q‖p). λ is the price of leaving p: reward per nat. The best q is known, p·exp(r/λ); how to
# draw from it is what the library works out. The model here is a small one that is shipped: 8×8 handwritten digits,
# pixels from −1 to 1.
#
# These pages need `pip install '.[docs]'` in the repository; `make tutorials` does that too, and runs and renders them.

# %%
import os

import numpy as np
from sklearn.datasets import load_digits

import alignkit as ak

FAST = os.environ.get("ALIGNKIT_FAST") == "1"  # fewer draws, for a quick check of this page
DRAWS = 512 if FAST else 2048

base = ak.base.digits()
before = base.sample(DRAWS, seed=0)
print(before.shape, f"mean pixel {before.mean():.3f}")

# %% [markdown]
# ## A reward
#
# A reward is an expression in a variable that stands for one draw. The names are those of numpy and cvxpy. Brightness
# is the mean pixel; `explain()` says what the compiler makes of it before anything is computed.

# %%
x = ak.Variable(base.shape)
brightness = ak.mean(x)
problem = ak.Problem(brightness, base, ak.KL(weight=0.05))
print(problem.explain())

# %% [markdown]
# "Affine" is the best news there is: q is the model's own law with its density tilted by one exponential, which costs
# no more network evaluations to draw from than the model itself.
#
# ## Which λ?
#
# λ has the units of the reward, so look at the reward first. Base draws weighted by exp(r/λ) foretell what a λ buys,
# for as long as their effective sample size (ESS) lasts. That is also why one does not stop here: the ESS runs out.


# %%
def foretold(scores, weight):
    """Mean score, divergence in nats, and ESS of base draws weighted by exp(score/λ)."""
    logs = scores / weight
    shares = np.exp(logs - logs.max())
    shares /= shares.sum()
    kl = float(shares @ np.log(np.maximum(shares * len(shares), 1e-300)))
    return float(shares @ scores), kl, 1 / float(shares @ shares)


scores = brightness.value(before)
print(f"base draws: mean {scores.mean():.3f}, standard deviation {scores.std():.3f}")
for weight in (0.2, 0.1, 0.05, 0.02):
    mean, kl, ess = foretold(scores, weight)
    print(f"λ = {weight:<5g} brightness {mean:.3f}   {kl:.2f} nats   ESS {ess:.0f} of {DRAWS}")

# %% [markdown]
# ## Solve once, draw as often as you like
#
# `solve` fits the sampler; every draw comes from an explicit seed. The certificate is what you would otherwise have
# to take on trust: reward before and after, the divergence that was paid, and *calibration*, which compares the
# sampler with reweighted draws of the model where both can be had, in standard deviations of the reward.

# %%
bright = problem.solve(seed=0)
print(bright.certificate)

# %% [markdown]
# Fresh draws should agree with the reweighted ones at this λ, within the noise of both.

# %%
after = bright.sample(DRAWS, seed=1)
mean, _, ess = foretold(scores, 0.05)
drawn = brightness.value(after)
noise = np.hypot(drawn.std() / np.sqrt(DRAWS), drawn.std() / np.sqrt(ess))
print(f"reweighted {mean:.4f}, drawn {drawn.mean():.4f}, noise of the difference {noise:.4f}")

# %% [markdown]
# ## A reward that knows a class
#
# A template is a reward too: the inner product with the average three, after taking away the average digit. It is
# still affine, so nothing else changes. A look at the scale sets λ again: at λ equal to the score's standard
# deviation, the score of a Gaussian law would rise by one standard deviation.

# %%
data = load_digits()
pictures = data.images / 8 - 1
means = np.stack([pictures[data.target == label].mean(axis=0) for label in range(10)])
template = means[3] - means.mean(axis=0)
template /= np.linalg.norm(template)

likeness = ak.inner(template, x)
print(f"standard deviation of the score: {likeness.value(before).std():.2f}")

# %% [markdown]
# Two slips that everyone makes once. A template that was flattened does not fit a picture, and the message says which
# shapes met. And "close to the template" as a negative squared distance is *concave*, which no method draws under KL
# in reasonable time in the worst case: the compiler says so, and offers what it has found to be tractable.

# %%
try:
    template.ravel() @ x
except ak.errors.ShapeError as error:
    print(error, end="\n\n")

try:
    ak.Problem(-ak.sum_squares(x - means[3]), base, ak.KL(weight=1.0)).compile()
except ak.errors.IntractableError as error:
    print(error)

# %% [markdown]
# The inner product is what such a distance rewards where all pictures have about the same length.

# %%
aligned = ak.Problem(likeness, base, ak.KL(weight=1.0)).solve(seed=0)
print(aligned.certificate)

# %% [markdown]
# Does it draw threes? Count the draws whose nearest class mean is that of the threes, before and after.


# %%
def share_of(label, draws):
    """The share of draws whose nearest class mean is the label's."""
    distances = ((draws[:, None] - means) ** 2).sum(axis=(2, 3))
    return float((distances.argmin(axis=1) == label).mean())


threes = aligned.sample(DRAWS, seed=1)
print(f"threes: {share_of(3, before):.1%} before, {share_of(3, threes):.1%} after")

# %%
aligned.plot.samples()

# %% [markdown]
# **Where next.** [02](02_what_is_tractable.py) shows what else can be asked for and what the compiler says when it
# cannot; [03](03_low_rank_convex_rewards.py) goes on to rewards that are not affine. `aligned.report("threes.html")`
# writes all of this to one page.
