# %% [markdown]
# # 7 · Your own model
#
# *I have a diffusion model already, and code that samples it. How do I align that model, and how do I get the result
# back into that code?*
#
# In: a pipeline of diffusers, a denoiser in the manner of EDM or k-diffusion, or a flow-matching network becomes a base
# law. Out: a tilted law is a denoiser again, for a sampling loop or a pipeline of your own.

# %%
import os
import warnings
from itertools import pairwise

import diffusers
import numpy as np
import torch
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler
from matplotlib.figure import Figure

import alignkit as ak
from alignkit_diffusers import DIGITS

FAST = os.environ.get("ALIGNKIT_FAST") == "1"
DRAWS = 64 if FAST else 128
PARTICLES = 128 if FAST else 384
diffusers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()

# %% [markdown]
# ## A pipeline of diffusers
#
# Yours comes from the hub or a folder; alignkit ships a small one, a U-net trained on 8×8 digits, so that this runs
# without a network. `from_diffusers` reads off the scheduler what the U-net is given, told and predicts.

# %%
pipeline = DDPMPipeline.from_pretrained(DIGITS)
pipeline.set_progress_bar_config(disable=True)
base = ak.base.from_diffusers(pipeline, nfe=31)
print(base)
print(f"trained at noise levels from {base.sigma_min:.3g} to {base.sigma_max:.3g}, pixels in {base.data_range}")

# %% [markdown]
# That is a base law like any other, and the shape of its draws is (channels, height, width). Which digits are the
# nearest symmetric ones?

# %%
x = ak.Variable(base.shape, name="x")
symmetric = ak.Problem(-ak.norm1(x - x[:, :, ::-1]), base, ak.Wasserstein(weight=2.0)).solve(seed=0)
print(symmetric.certificate)

# %%
symmetric.plot.samples()

# %% [markdown]
# ## A denoiser or a velocity of your own
#
# `ak.base.Denoiser` wraps any torch callable; `prediction` and `coordinates` say what it returns and what it is given.
# To see that the conventions are right, the networks here are made from a law that is known, a mixture of two
# Gaussians. An EDM network is given x_σ = x₀ + σz and σ, and returns the mean of x₀. A flow-matching network is given
# (1 − t)·x₀ + t·z and t, and returns the mean of z − x₀.

# %%
truth = ak.base.GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 1.0]], 0.25)


def edm_network(x, sigma):
    return truth.denoise(x, sigma)


def flow_network(x, t):
    x0 = truth.denoise(x / (1 - t[:, None]), t / (1 - t))
    return (x - x0) / t[:, None]


options = {"shape": (2,), "sigma_min": 0.002, "sigma_max": 80.0, "exact": True}
laws = {
    "the truth": truth,
    "EDM": ak.base.Denoiser(edm_network, **options),
    "flow matching": ak.base.Denoiser(flow_network, prediction="velocity", coordinates="flow", **options),
}

# %% [markdown]
# `exact=True` promises the true posterior mean, which a trained network never is: leave it out for yours, and tilts are
# calibrated instead. The same problem over all three has the same answer:

# %%
point = ak.Variable((2,), name="x")
for name, law in laws.items():
    certificate = ak.Problem(ak.sum(point), law, ak.KL(weight=2.0)).solve(seed=0).certificate
    print(f"{name:14} reward {certificate.reward_after}, log partition {certificate.log_partition}")

# %% [markdown]
# **A wrong turn.** Many flow-matching models run from noise at t = 0 to data at t = 1, and their velocity points to the
# data. Nothing can tell from outside, but plain draws do. The cure is a sign and a flip: `lambda x, t: -net(x, 1 - t)`.


# %%
def their_network(x, t):
    return -flow_network(x, 1 - t)


flow = {"prediction": "velocity", "coordinates": "flow", **options}
for name, network in {
    "as it is": their_network,
    "with a sign and a flip": lambda x, t: -their_network(x, 1 - t),
}.items():
    drawn = ak.base.Denoiser(network, **flow).sample(2000, seed=0)
    print(f"{name:23} mean {drawn.mean(axis=0).round(2)}, where it is {truth.mean.round(2)}")

# %% [markdown]
# ## Back into a loop of yours
#
# `ak.tilt(base, theta)` is the law p·exp⟨θ, x⟩, called as k-diffusion calls a model. It is all that the KL route makes
# laws of. θ asks for ink at the top and none at the bottom. Since the U-net is trained and not exact, `ak.tilt` first
# anneals some particles to the tilted law, and says if they are too few to be relied upon:

# %%
theta = np.zeros(base.shape)
theta[:, :4], theta[:, 4:] = 0.25, -0.25
with warnings.catch_warnings(record=True) as raised:
    warnings.simplefilter("always")
    law = ak.tilt(base, theta, seed=0, particles=PARTICLES)
for warning in raised:
    print(warning.message)


# %%
def sample_euler(model, x, sigmas):
    """Euler's method, as a k-diffusion user would write it."""
    for sigma, lower in pairwise(sigmas):
        denoised = model(x, sigma * x.new_ones(len(x)))
        x = x + (lower - sigma) * (x - denoised) / sigma
    return x


ramp = torch.linspace(1, 0, 40)
sigmas = torch.cat([(0.02 ** (1 / 7) + ramp * (40.0 ** (1 / 7) - 0.02 ** (1 / 7))) ** 7, torch.zeros(1)])
start = sigmas[0] * torch.randn((DRAWS, *base.shape), generator=torch.manual_seed(1))
with torch.no_grad():
    looped = sample_euler(law, start, sigmas).numpy()

# %% [markdown]
# ## Back into a pipeline of yours
#
# `ak.tilted_pipeline` gives a pipeline of the same class. Its call, generators, callbacks and scheduler are those of
# diffusers: here another scheduler is put in, as with any pipeline.

# %%
tilted = ak.tilted_pipeline(pipeline, law)
tilted.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
images = tilted(batch_size=DRAWS, num_inference_steps=31, generator=torch.manual_seed(2), output_type="np").images
piped = 2 * images.transpose(0, 3, 1, 2) - 1

# %% [markdown]
# All three draw from one law: alignkit's own sampler, the loop, and the pipeline.

# %%
drawn = {
    "the model": base.sample(DRAWS, seed=3),
    "ak.tilt": law.sample(DRAWS, seed=3),
    "loop": looped,
    "pipeline": piped,
}
for name, rows in drawn.items():
    scores = (rows * theta).sum(axis=(1, 2, 3))
    print(f"{name:10} ⟨θ, x⟩ = {scores.mean():5.2f} ± {scores.std() / np.sqrt(DRAWS):.2f}")

# %% [markdown]
# ## What was achieved
#
# The certificate of the tilt holds it against reweighted draws of the model, in the line *calibration*. All draws share
# its particles, so means over ever so many of them are no better than over as many independent draws as its ESS says.

# %%
print(law.certificate)


# %%
def pictures(panels):
    """Eight draws of each law, a row each."""
    figure = Figure(figsize=(8, 1.2 + len(panels)), layout="constrained")
    for (title, rows), axes in zip(panels.items(), figure.subplots(len(panels), 8), strict=True):
        axes[0].set_title(title, loc="left")
        for axis, row in zip(axes, rows[:8], strict=True):
            axis.imshow(row[0], cmap="gray", vmin=-1, vmax=1)
            axis.axis("off")
    return figure


pictures({"the model": drawn["the model"], "the tilted pipeline": drawn["pipeline"]})

# %% [markdown]
# **Where next.** `ak.base.from_diffusers` lists what it takes: prompts, class labels, guidance, latent models.
# `alignkit.base.coordinates.Convention` has every convention with its signs, `alignkit_torch.solvers` the samplers.
