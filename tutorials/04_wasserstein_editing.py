# %% [markdown]
# # 4 · The smallest edit that meets a goal
#
# *I have pictures of my own, and a goal that they should meet: agree with some measured pixels, be symmetric. How do I
# change each as little as possible?*
#
# Under Wasserstein closeness the aligned law is T#p, where T moves every draw x to the best compromise
# `argmax_y r(y) − λ·c(x, y)`. T is a map: it takes your own data as well as draws of the model. A concave reward of any
# dimension is tractable here, the kind that KL refuses.

# %%
import os

import numpy as np
from matplotlib.figure import Figure

import alignkit as ak

FAST = os.environ.get("ALIGNKIT_FAST") == "1"
ROWS = 64 if FAST else 512  # draws of the model that are looked at besides the pictures below

# %% [markdown]
# ## Your own digits
#
# Five digits drawn by hand: 8×8, ink 1 and paper −1, as the shipped model has them. Put your own in their place.

# %%
DRAWN = """
..####.. ...#.... .####... .####... ....##..
.##..##. ..##.... ##..##.. ....##.. ...###..
.##..##. .###.... ....##.. ....##.. ..##.#..
.##..##. ..##.... ...##... ..###... .##..#..
.##..##. ..##.... ..##.... ....##.. .#######
.##..##. ..##.... .##..... ....##.. .....#..
.##..##. ..##.... ##...... ....##.. .....#..
..####.. .####... ######.. .####... .....#..
"""
lines = [line.split() for line in DRAWN.split("\n") if line]
mine = np.array([[[1.0 if dot == "#" else -1.0 for dot in line[k]] for line in lines] for k in range(5)])

base = ak.base.digits()
x = ak.Variable(base.shape)

# %% [markdown]
# ## Goal one: agree with measurements
#
# Suppose that the left half of a 3 has been measured, and that one pixel of the sensor is broken. A square would chase
# that pixel as far as it goes; under an ℓ1 reward no pixel moves by more than 1/λ, however wrong its measurement is.
# `ak.Parameter` holds the measurement, so that the next one needs no new compilation. `@` is numpy's product on x's own
# shape; what takes the whole picture as a vector, as here, takes `ak.vec(x)`.

# %%
left = np.flatnonzero(np.arange(64) % 8 < 4)
reading = mine[3].ravel()[left].copy()
broken = 13
reading[broken] = 30.0
measured = ak.Parameter(left.size, reading, name="measured")
WEIGHT = 0.5
inpainting = ak.Problem(-ak.norm1(ak.vec(x)[left] - measured), base, ak.Wasserstein(weight=WEIGHT))
print(inpainting.explain())

# %%
inpainted = inpainting.solve(seed=0)
moved = inpainted.transport(mine, return_details=True)
sound = np.arange(left.size) != broken
errors = [np.abs(one.reshape(5, 64)[:, left] - reading) for one in (mine, moved.y)]
for digit, before, after, cost in zip("01234", errors[0], errors[1], moved.cost, strict=True):
    agree = [int((one[sound] < 1e-6).sum()) for one in (before, after)]
    print(f"{digit}: agrees in {agree[0]} of {sound.sum()} sound pixels before, in {agree[1]} after, cost {cost:.1f}")
print(f"the broken pixel moved by at most {(errors[0] - errors[1])[:, broken].max():.2f}, and 1/λ = {1 / WEIGHT:.2f}")

# %% [markdown]
# The right halves are untouched: T changes what the reward asks for and nothing else. It does not guess what a *digit*
# with that left half looks like, as KL closeness would; tutorial 9 sets the two beside each other.

# %% [markdown]
# ## Goal two: a shape, and the price of moving
#
# A mirror-symmetric digit. λ is the exchange rate between reward and cost: at a low price every digit goes all the way,
# at a high one it stops short. (`ak.Wasserstein(radius=ρ)` has a budget of mean cost instead, and finds the λ for it.)

# %%
asymmetry = ak.norm1(x - x[:, ::-1])
price = ak.Parameter(name="λ")
symmetry = ak.Problem(-asymmetry, base, ak.Wasserstein(weight=price))
for weight in (2.0, 4.0, 8.0, 16.0):
    price.value = weight
    certificate = symmetry.solve(seed=0).certificate
    print(f"λ = {weight:4}: asymmetry {-certificate.reward_after.value:7.3f}, cost {certificate.transport_cost}")

# %% [markdown]
# ## Which distance?
#
# The squared distance spreads a change thinly over many pixels; ℓ1 would rather change few pixels completely. The cost
# is part of the question, and each has its own solver.

# %%
costs = {"squared": ak.costs.SquaredEuclidean(), "ℓ1": ak.costs.L1()}
edits = {}
for name, cost in costs.items():
    problem = ak.Problem(-asymmetry, base, ak.Wasserstein(weight=1.0, cost=cost))
    aligned = problem.solve(seed=0)
    edits[name] = aligned.transport(mine)
    changed = np.abs(edits[name] - mine) > 1e-6
    grey = changed & (np.abs(edits[name]) < 0.99)
    print(
        f"{name:8} solved by {aligned.plan.backend}: {changed.sum() / len(mine):.1f} pixels changed a digit, "
        f"{grey.sum() / len(mine):.1f} of them to a grey"
    )

# %% [markdown]
# ## Wrong turns
#
# A picture that has not the model's shape, a map asked of a problem that has none, and a convex reward that outgrows
# the cost: each message says what to do instead.

# %%
kl = ak.Problem(ak.sum(x), ak.base.Gaussian(np.zeros((8, 8)), 1.0), ak.KL(weight=50.0)).solve(seed=0)
for attempt in (
    lambda: inpainted.transport(mine.reshape(5, 64)),
    lambda: kl.transport(mine),
    lambda: ak.Problem(ak.sum_squares(x), base, ak.Wasserstein(weight=1.0)).solve(seed=0),
):
    try:
        attempt()
    except ak.errors.AlignkitError as error:
        print(type(error).__name__, "·", error, "\n")

# %% [markdown]
# ## The certificate and the pictures
#
# Every row has its own bound on how far it is from the best edit there is; `largest gap` is the worst of them.

# %%
draws, edited = inpainted.sample(ROWS, seed=1, return_base=True)
right = np.setdiff1d(np.arange(64), left)
unchanged = np.abs((edited - draws).reshape(ROWS, 64)[:, right]).max()
print(f"largest change outside the measured pixels over {ROWS} draws: {unchanged:.1g}\n")
print(inpainted.certificate)

# %%
inpainted.plot.samples()

# %% [markdown]
# Your own digits: as drawn, with the left half of a 3, and symmetric under either cost.


# %%
def strips() -> Figure:
    batches = {"drawn": mine, "measured": moved.y, "symmetric, squared": edits["squared"], "symmetric, ℓ1": edits["ℓ1"]}
    figure = Figure(figsize=(7, 5.6), layout="constrained")
    for axes, (name, pictures) in zip(figure.subplots(len(batches), 1), batches.items(), strict=True):
        axes.imshow(
            np.hstack(np.pad(pictures, ((0, 0), (0, 0), (0, 1)), constant_values=-1)), "gray_r", vmin=-1, vmax=1
        )
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    return figure


strips()

# %% [markdown]
# **Where next:** tutorial 5 takes rewards that are neither concave nor convex, and shows how the solver is chosen;
# tutorial 9 compares T with the aligned law under KL.
