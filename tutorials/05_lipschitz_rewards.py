# %% [markdown]
# # 5 · Rewards without curvature, and who solves them
#
# *My reward is a score that I measured, or a function that I wrote: it goes up and down. Is there still a best edit,
# and which solver should find it?*
#
# Under Wasserstein closeness each draw x moves to `argmax_y r(y) − λ·½‖x − y‖²`. If r is neither concave nor convex,
# that search may have many local maxima. It can still be done with a bound for every row, as long as r looks at x
# through at most three features and cannot change faster than some Lipschitz constant.

# %%
import os
import time

import numpy as np
from matplotlib.figure import Figure

import alignkit as ak
from alignkit.contracts import Bid

FAST = os.environ.get("ALIGNKIT_FAST") == "1"
ROWS = 100 if FAST else 1000  # moved by each solver
base = ak.base.digits()
x = ak.Variable(base.shape)

# %% [markdown]
# ## A function of your own, and its constant
#
# A reader's score of how much ink there is: some amounts are better than others, in no simple pattern. The function
# takes a batch (n,) of the feature and returns (n,). The constant bounds its slope, and here that is easy: |0.6·3| plus
# |1.2·0.7|.


# %%
def score(ink):
    return 0.6 * np.sin(3 * ink) + 1.2 * np.cos(0.7 * ink)


CONSTANT, WEIGHT = 0.6 * 3 + 1.2 * 0.7, 1.0
ink = ak.sum(x) / 8
problem = ak.Problem(ak.lipschitz(score, CONSTANT, ink), base, ak.Wasserstein(weight=WEIGHT))
print(problem.explain())

# %% [markdown]
# One backend bids and the others say why they do not: `grid` searches by values alone, the others need a formula that
# they know. It tables the best value once, with upper bounds between the points of the table, and looks rows up.

# %%
aligned = problem.solve(seed=0)
print(aligned.certificate)

# %% [markdown]
# ## Is the bound true?
#
# With one feature we can look: 100,001 points of brute force for each row, over all moves that could pay. No row may be
# beaten by more than its own bound.

# %%
draws = base.sample(ROWS, seed=1)
moved = aligned.transport(draws, return_details=True)
feature, reached = draws.sum(axis=(1, 2)) / 8, moved.y.sum(axis=(1, 2)) / 8
moves = np.linspace(-CONSTANT / WEIGHT, CONSTANT / WEIGHT, 100_001)
best = np.array([(score(at + moves) - WEIGHT * 0.5 * moves**2).max() for at in feature.astype(float)])
beaten = best - moved.objective
print(
    f"brute force beats T by {beaten.max():.1e} at most, and the bound of that row is {moved.gap[beaten.argmax()]:.1e}"
)
print(f"rows beaten by more than their bound: {(beaten > moved.gap + 1e-9).sum()} of {ROWS}")

# %% [markdown]
# ## The constant is your word
#
# Nothing can prove a constant from values, but two values can disprove it. A constant that is caught as too small is
# refused with the two; one that is not caught makes the bound worthless, so err on the large side, which costs time
# alone. The other wrong turns here: a reward that looks at too many features, and the other closeness.

# %%
for reward, closeness in (
    (ak.lipschitz(score, 0.5, ink), ak.Wasserstein(weight=WEIGHT)),
    (ak.sum(ak.sin(ak.sum(x, axis=0))), ak.Wasserstein(weight=WEIGHT)),
    (ak.sin(ink), ak.KL(weight=WEIGHT)),
):
    try:
        ak.Problem(reward, base, closeness).solve(seed=0)
    except ak.errors.AlignkitError as error:
        print(type(error).__name__, "·", error, "\n")

# %% [markdown]
# ## Reading the bids
#
# Written with atoms, the reward has a formula, and more backends can offer. `problem.backends()` has what each answers.
# A bid is a guarantee and a predicted time, and
# bids compare by guarantee first: *exact* is right up to rounding, *certified* has a bound for every row, *heuristic*
# has none. So a slow certified bid goes before a fast one without a bound; a refusal has its reason.

# %%
halves = 4 * ak.stack([ak.mean(x[:4]), ak.mean(x[4:])])
looks = ak.distance_to_points(halves, [[-2.0, -2.0], [0.0, -3.0], [-3.0, 0.0]])
nearest = ak.Problem(-looks, base, ak.Wasserstein(weight=0.25))
print(nearest.backends())
print(nearest.solve(seed=0).certificate)

# %% [markdown]
# ## Choosing one yourself
#
# For a concave reward several backends solve the same convex program. `backend=` insists on one; the answers must
# agree, the times need not. A prediction is for 10,000 rows and leaves out the first call, which compiles.

# %%
target = base.sample(1, seed=5)[0]
concave = ak.Problem(-ak.norm1(x - target), base, ak.Wasserstein(weight=1.0))
bids = [answer for answer in concave.backends() if isinstance(answer, Bid) and answer.seconds < 60]
results = {}
print(f"{'backend':9}{'guarantee':12}{'predicted':>12}{'taken':>12}{'largest gap':>14}")
for bid in bids:
    solved = concave.solve(seed=0, backend=bid.backend)
    start = time.perf_counter()
    results[bid.backend] = solved.transport(draws, return_details=True)
    taken = (time.perf_counter() - start) / ROWS * 1e6
    guarantee, predicted = bid.guarantee.name.lower(), bid.seconds * 100
    gap = results[bid.backend].relative_gap.max()
    print(f"{bid.backend:9}{guarantee:12}{predicted:9.1f} µs{taken:9.1f} µs{gap:14.1e}")
objectives = np.array([one.objective for one in results.values()])
print(f"largest difference between their objectives: {np.ptp(objectives, axis=0).max():.1e}")

# %% [markdown]
# A backend that refuses, or that is not there, says so before anything is drawn.

# %%
for name in ("numba", "grids"):
    try:
        problem.solve(seed=0, backend=name)
    except (ak.errors.BackendRefusedError, ak.errors.BackendUnavailableError) as error:
        print(type(error).__name__, "·", error, "\n")

# %% [markdown]
# ## The picture
#
# T along the feature (grey: staying where one is): draws climb to a peak that is worth the way, and where another peak
# becomes the better one, T jumps.


# %%
def map_along_feature() -> Figure:
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(feature, reached, ".", color="#0072b2", markersize=4)
    line = np.linspace(feature.min() - 0.5, feature.max() + 0.5, 500)
    above.plot(line, line, color="#8a929b", linewidth=0.8)
    above.set(ylabel="ink after")
    below.plot(line, score(line), color="#d55e00")
    below.plot(reached, score(reached), ".", color="#0072b2", markersize=4)
    below.set(xlabel="ink before (above), ink (below)", ylabel="score")
    return figure


map_along_feature()

# %%
aligned.plot.gaps()

# %% [markdown]
# **Where next:** tutorial 8 writes a backend whose bid stands in these tables; tutorial 9 asks when to move draws at
# all, and when to choose among them.
