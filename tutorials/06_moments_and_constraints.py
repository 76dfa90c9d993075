# %% [markdown]
# # Moments and constraints: set a generator's averages right
#
# *Each picture is fine, but the averages are off: the generator leans to the left and draws some classes too often.
# How do I set the averages right without retraining, change nothing else, and keep to a budget?*
#
# That is a statement about the law q, not about single draws. `ak.E(…)` is an expectation under q; constraints and
# rewards may use it under KL closeness. Of all laws with the right averages, you get the one closest to the
# generator.

# %%
import os

import numpy as np
from sklearn.datasets import load_digits

import alignkit as ak
from alignkit import errors

FAST = os.environ.get("ALIGNKIT_FAST") == "1"  # fewer draws, for a quick check of this page
DRAWS = 2_000 if FAST else 20_000

# %% [markdown]
# The generator of this page is a mixture of Gaussians, one for each class of handwritten digits, with weights that
# are deliberately uneven. Its answers have closed forms, so that everything below can be checked. With a trained
# model, such as `ak.base.digits()`, the same lines run; multipliers are then found from draws and come with standard
# errors.

# %%
data = load_digits()
pictures = data.images / 8 - 1
means = np.stack([pictures[data.target == label].mean(axis=0) for label in range(10)])
within = np.cov((pictures - means[data.target]).reshape(-1, 64), rowvar=False) + 0.01 * np.eye(64)
uneven = np.linspace(3, 1, 10) / 20

base = ak.base.GaussianMixture(uneven, means, np.repeat(within[None], 10, axis=0), name="generator")
x = ak.Variable(base.shape)
before = base.sample(DRAWS, seed=0)

# %% [markdown]
# ## Look at the averages first

# %%
lean = ak.mean(x[:, :4]) - ak.mean(x[:, 4:])
brightness = ak.mean(x)


def report(name, draws):
    """Averages of both features, with standard errors."""
    for feature, expression in (("lean", lean), ("brightness", brightness)):
        values = expression.value(draws)
        print(f"{name}: {feature:<10} {values.mean():+.4f} ± {values.std() / np.sqrt(len(values)):.4f}")


report("before", before)

# %% [markdown]
# ## The closest law with the right averages
#
# No lean, and no darker than a floor. The reward is 0: there is nothing to gain, only averages to meet.


# %%
def straightened(target, floor=-0.4):
    """The closest law whose lean is the target and whose brightness is no less than the floor."""
    constraints = [ak.E(lean) == target, ak.E(brightness) >= floor]
    return ak.Problem(0.0, base, ak.KL(weight=1.0), constraints=constraints)


aligned = straightened(0.0).solve(seed=0)
print(aligned.certificate)

# %%
report("after", aligned.sample(DRAWS, seed=1))

# %% [markdown]
# Every constraint has a *multiplier* η. It says what the constraint costs: the best value falls by η for every unit
# that its right side is raised by. Here the value is −KL. A constraint that does not bind has the multiplier 0.

# %%
step = 0.01
lower, upper = (float(straightened(target).solve(seed=0).certificate.kl) for target in (-step, step))
lean_price, brightness_price = (float(dual) for dual in aligned.certificate.duals)
print(f"multiplier of the lean {lean_price:.4f}, of the brightness {brightness_price:.4f}")
print(f"the value falls by {(upper - lower) / (2 * step):.4f} for each unit of lean asked for")

# %% [markdown]
# ## Many averages at once: the shares of classes
#
# Shares of classes are not averages of an affine feature, but the average score on each class template is. Ask for
# the averages that an even mixture would have; ten templates around their mean make nine features.

# %%
templates = (means - means.mean(axis=0)).reshape(10, 64)[:9] / 8
target = templates @ means.mean(axis=0).ravel()
even = ak.Problem(0.0, base, ak.KL(weight=1.0), constraints=[ak.E(templates @ ak.vec(x)) == target]).solve(seed=0)
print(even.certificate)

# %%
precision = np.linalg.inv(within)


def shares(draws):
    """Of each class: the share of draws whose nearest mean it is, in units of the spread within classes."""
    away = (draws[:, None] - means).reshape(len(draws), 10, 64)
    nearest = np.einsum("nki,ij,nkj->nk", away, precision, away).argmin(axis=1)
    return np.bincount(nearest, minlength=10) / len(draws)


print("before", np.round(shares(before), 3), f"spread {shares(before).std():.3f}")
balanced = shares(even.sample(DRAWS, seed=1))
print("after ", np.round(balanced, 3), f"spread {balanced.std():.3f}")

# %% [markdown]
# The averages are met to rounding, and the shares come nearer to even, but not all the way: q meets the averages
# partly by moving every class a little, since that is closer to the generator. You get the closest law with what you
# asked for.

# %% [markdown]
# ## A budget in place of a price
#
# Now a reward too: more of what looks like a three. If you would rather say how far q may go than what a nat is
# worth, give a radius; the λ that fits is found. The lean stays out, whatever the budget.

# %%
likeness = ak.inner(means[3] - means.mean(axis=0), x)
for radius in (0.2, 0.5, 2.0):
    within_budget = ak.Problem(likeness, base, ak.KL(radius=radius), constraints=[ak.E(lean) == 0.0])
    found = within_budget.solve(seed=0).certificate
    reward, paid = float(found.reward_after), float(found.kl)
    print(f"budget {radius:g}: reward {reward:.3f}, paid {paid:.3f} nats, λ = {found.weight:.3f}")

# %% [markdown]
# ## Wrong turns
#
# Expectations are of affine expressions: only their multipliers are tilts. A constraint on draws is not one on the
# law. Transport moves draws one by one and knows no law. And a budget may be too small for the constraints.


# %%
def ask(make):
    """Shows what is said to a problem that cannot be."""
    try:
        make()
    except errors.AlignkitError as error:
        print(f"{type(error).__name__}: {error}\n")
    else:
        raise AssertionError("this was to be refused")


ask(lambda: ak.E(ak.square(lean)) <= 0.01)
ask(lambda: ak.Problem(likeness, base, ak.KL(weight=1.0), constraints=[lean == 0.0]))
ask(lambda: ak.Problem(likeness, base, ak.Wasserstein(weight=1.0), constraints=[ak.E(lean) == 0.0]))
ask(lambda: ak.Problem(likeness, base, ak.KL(radius=0.01), constraints=[ak.E(lean) == 1.0]).solve(seed=0))

# %% [markdown]
# ## The result
#
# Threes within the budget, and no lean.

# %%
threes = ak.Problem(likeness, base, ak.KL(radius=2.0), constraints=[ak.E(lean) == 0.0]).solve(seed=0)
print(threes.certificate)
report("after", threes.sample(DRAWS, seed=1))

# %%
threes.plot.samples()

# %% [markdown]
# **Where next.** Wishes in place of demands: a concave utility of an expectation, `ak.log(ak.E(…))`, goes into the
# reward, and `solve(ridge=κ)` relaxes constraints that cannot be met. [07](07_your_own_model.py) puts your own model
# in the generator's place.
