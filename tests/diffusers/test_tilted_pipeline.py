"""Pipelines with a tilt, against pipelines whose network is that of the tilted mixture itself."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import nn

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.tilting.tilted_law import TiltedLaw
from alignkit_diffusers.tilted_pipeline import tilted_pipeline
from tests.diffusers.networks import MixtureNetwork, mixture, mixture_network
from tests.diffusers.pipelines import PlainPipeline
from tests.diffusers.small_networks import seeded, sequence_unet, unet

LAW = mixture()
THETA = np.random.default_rng(3).normal(size=LAW.shape)
THETA *= 2 / np.linalg.norm(THETA)
TILTED = LAW.tilt(THETA)

PLAIN = ("epsilon", "v_prediction", "sample")
CASES: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("DDPMScheduler", PLAIN, {"clip_sample": False}),
    ("DDIMScheduler", PLAIN, {"clip_sample": False, "beta_schedule": "scaled_linear"}),
    (
        "DDIMScheduler",
        PLAIN[1:],
        {"clip_sample": False, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    ("PNDMScheduler", PLAIN[:2], {"skip_prk_steps": True}),
    ("DPMSolverMultistepScheduler", PLAIN, {"beta_schedule": "squaredcos_cap_v2"}),
    ("DPMSolverMultistepScheduler", PLAIN, {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", ("flow_prediction",), {"use_flow_sigmas": True}),
    ("UniPCMultistepScheduler", PLAIN[:1], {}),
    ("EulerDiscreteScheduler", PLAIN, {}),
    ("EulerDiscreteScheduler", PLAIN[:1], {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
    ("EulerDiscreteScheduler", PLAIN[1:2], {"timestep_type": "continuous"}),
    ("EulerAncestralDiscreteScheduler", PLAIN[:2], {}),
    ("HeunDiscreteScheduler", PLAIN[:2], {}),
    ("KDPM2DiscreteScheduler", PLAIN[:1], {}),
    ("EDMEulerScheduler", PLAIN[:2], {}),
    ("EDMDPMSolverMultistepScheduler", PLAIN[:1], {}),
    ("FlowMatchEulerDiscreteScheduler", ("",), {}),
    ("FlowMatchEulerDiscreteScheduler", ("",), {"shift": 3.0}),
]


def scheduler_of(kind: str, prediction: str, options: dict[str, Any]) -> Any:
    named = {"prediction_type": prediction} if prediction else {}
    return getattr(diffusers, kind)(**named, **options)


def plain(law: Any = LAW, scheduler: Any = None, **options: Any) -> PlainPipeline:
    chosen = DDIMScheduler(clip_sample=False) if scheduler is None else scheduler
    return PlainPipeline(mixture_network(law, chosen, **options), chosen)


@pytest.mark.parametrize(
    ("kind", "prediction", "options"),
    [(kind, prediction, options) for kind, predictions, options in CASES for prediction in predictions],
)
def test_every_answer_is_that_of_the_tilted_laws_own_network(
    kind: str, prediction: str, options: dict[str, Any]
) -> None:
    scheduler = scheduler_of(kind, prediction, options)
    own = plain(TILTED, copy.deepcopy(scheduler))
    found = tilted_pipeline(plain(LAW, scheduler), THETA, exact=True)(batch_size=6, generator=seeded())
    for scaled, timestep, output in found["calls"]:
        truth = own.unet(scaled, timestep).sample
        assert (output - truth).abs().max() <= 1e-5 * truth.abs().mean(), timestep
    drawn = own(batch_size=6, generator=seeded())["samples"]
    torch.testing.assert_close(found["samples"], drawn, rtol=0, atol=1e-4)
    # The check can fail: without the tilt the draws are others.
    assert (plain(LAW, scheduler)(batch_size=6, generator=seeded())["samples"] - drawn).abs().max() > 0.1


@pytest.mark.parametrize("prediction", PLAIN)
def test_single_precision_is_enough(prediction: str) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    options: dict[str, Any] = {"dtype": torch.float32}
    found = tilted_pipeline(plain(LAW, scheduler, **options), THETA, exact=True)(8, generator=seeded())["samples"]
    drawn = plain(TILTED, scheduler, **options)(8, generator=seeded())["samples"]
    assert found.dtype == torch.float32
    # x₀ is of size 2, and at σ = 157 predictions of the noise leave it with σ times their rounding.
    torch.testing.assert_close(found, drawn, rtol=0, atol=2e-3 if prediction == "epsilon" else 1e-4)


def test_half_precision_is_shifted_in_single() -> None:
    pipeline = plain(dtype=torch.bfloat16)
    tilted = tilted_pipeline(pipeline, THETA, exact=True)
    given: list[torch.Tensor] = []
    pipeline.unet.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    sample = torch.randn(4, *LAW.shape, generator=seeded()).bfloat16()
    output = tilted.unet(sample, torch.tensor(500)).sample
    assert output.dtype == given[0].dtype == torch.bfloat16
    retained = float(pipeline.scheduler.alphas_cumprod[500])
    sigma = ((1 - retained) / retained) ** 0.5
    shift = torch.tensor(sigma**2 / (1 + sigma**2) ** 0.5 * THETA)
    assert torch.equal(given[0], (sample.double() + shift).float().bfloat16())
    answer = pipeline.unet(given[0], torch.tensor(500)).sample
    torch.testing.assert_close(output.double(), answer.double() - sigma * torch.tensor(THETA), rtol=2**-8, atol=1e-6)


LOUD = ak.base.GaussianMixture([0.4, 0.6], np.random.default_rng(1).normal(size=(2, 1, 4, 4)) / 4, 0.01)
LOUD_THETA = 8 * THETA


@pytest.mark.parametrize("kind", [DDPMPipeline, DDIMPipeline])
@pytest.mark.parametrize("output_type", ["pt", "np", "pil"])
def test_stock_pipelines_keep_their_call(kind: Any, output_type: str) -> None:
    scheduler = DDPMScheduler(clip_sample=False) if kind is DDPMPipeline else DDIMScheduler(clip_sample=False)
    base, own = (kind(mixture_network(law, scheduler), scheduler) for law in (LOUD, LOUD.tilt(LOUD_THETA)))
    tilted = tilted_pipeline(base, LOUD_THETA, exact=True)
    assert type(tilted) is kind and isinstance(tilted.unet, MixtureNetwork)
    drawn = []
    for pipeline in (tilted, own, base):
        pipeline.set_progress_bar_config(disable=True)
        generators = [seeded(seed) for seed in range(3)]
        options: dict[str, Any] = {"batch_size": 3, "num_inference_steps": 5, "output_type": output_type}
        drawn.append(pipeline(**options, generator=generators).images)
        (again,) = pipeline(**options, generator=[seeded(seed) for seed in range(3)], return_dict=False)
        assert np.array_equal(np.stack(again), np.stack(drawn[-1]))
    pictures = [np.stack([np.asarray(picture, dtype=float) for picture in batch]) for batch in drawn]
    span = 255 if output_type == "pil" else 1
    assert np.abs(pictures[0] - pictures[1]).max() <= (1 if output_type == "pil" else 1e-5)
    assert np.abs(pictures[2] - pictures[1]).max() > 0.02 * span


def test_a_generator_for_each_image_draws_it_whatever_the_batch() -> None:
    tilted = tilted_pipeline(plain(), THETA, exact=True)
    whole = tilted(batch_size=3, generator=[seeded(seed) for seed in range(3)])["samples"]
    for seed in range(3):
        alone = tilted(batch_size=1, generator=[seeded(seed)])["samples"]
        torch.testing.assert_close(whole[seed : seed + 1], alone, rtol=0, atol=1e-9)


def test_callbacks_see_the_tilted_pipeline_and_may_change_its_samples() -> None:
    tilted, seen = tilted_pipeline(plain(), THETA, exact=True), []

    def halve(pipeline: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        assert pipeline is tilted
        seen.append((step, int(timestep)))
        return {"latents": given["latents"] / 2} if step == 2 else given

    found = tilted(batch_size=2, generator=seeded(), callback_on_step_end=halve)["samples"]
    own = plain(TILTED)
    drawn = own(batch_size=2, generator=seeded(), callback_on_step_end=lambda _, *rest: halve(tilted, *rest))["samples"]
    torch.testing.assert_close(found, drawn, rtol=0, atol=1e-6)
    assert seen == [*enumerate(tilted.scheduler.timesteps.tolist())] * 2


@pytest.mark.parametrize("shared", [True, False])
def test_a_plain_loop_runs_unchanged(shared: bool) -> None:
    tilted = tilted_pipeline(plain(scheduler=diffusers.EulerDiscreteScheduler()), THETA, exact=True)
    model = tilted.unet
    scheduler = tilted.scheduler if shared else diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(8)
    start = torch.randn(4, *LAW.shape, generator=seeded(), dtype=torch.float64) * scheduler.init_noise_sigma
    x = start
    for t in scheduler.timesteps:
        out = model(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(out, t, x).prev_sample
    network, y = mixture_network(TILTED, scheduler), start
    scheduler.set_timesteps(8)
    for t in scheduler.timesteps:
        y = scheduler.step(network(scheduler.scale_model_input(y, t), t).sample, t, y).prev_sample
    torch.testing.assert_close(x, y, rtol=0, atol=1e-4)


def test_another_scheduler_may_be_put_in() -> None:
    tilted = tilted_pipeline(plain(), THETA, exact=True)
    before = tilted(batch_size=2, generator=seeded())["samples"]
    tilted.scheduler = diffusers.EulerDiscreteScheduler.from_config(tilted.scheduler.config)
    drawn = plain(TILTED, tilted.scheduler)(batch_size=2, generator=seeded())["samples"]
    torch.testing.assert_close(tilted(batch_size=2, generator=seeded())["samples"], drawn, rtol=0, atol=1e-4)
    tilted.scheduler = DDIMScheduler(clip_sample=False)
    assert torch.equal(tilted(batch_size=2, generator=seeded())["samples"], before)


def test_timesteps_of_rows_and_of_shares_are_understood() -> None:
    sample = torch.randn(3, *LAW.shape, generator=seeded(), dtype=torch.float64)
    pipeline = plain()
    told = torch.tensor([3, 500, 999])
    found = tilted_pipeline(pipeline, THETA, exact=True).unet(sample, told).sample
    torch.testing.assert_close(
        found, mixture_network(TILTED, pipeline.scheduler)(sample, told).sample, rtol=1e-6, atol=0
    )

    # Some flow pipelines tell their network t itself, and not t times the number of timesteps.
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)

    def by_shares(law: Any) -> Any:
        network = mixture_network(law, flow)
        whole = network.answer
        network.answer = lambda sample, timestep: whole(sample, 1000 * timestep)
        return network

    tilted = tilted_pipeline(PlainPipeline(by_shares(LAW), flow), THETA, exact=True)
    tilted.scheduler.set_timesteps(5)
    for timestep in tilted.scheduler.timesteps:
        output = tilted.unet(sample, timestep / 1000).sample
        torch.testing.assert_close(output, by_shares(TILTED)(sample, timestep / 1000).sample, rtol=1e-4, atol=1e-4)


def test_a_tilt_for_each_image() -> None:
    thetas = np.stack([THETA, 0 * THETA, -THETA])
    tilted = tilted_pipeline(plain(), torch.tensor(thetas), calibrate=False)
    found = tilted(batch_size=3, generator=seeded())["samples"]
    for row, theta in enumerate(thetas):
        drawn = plain(LAW.tilt(theta))(batch_size=3, generator=seeded())["samples"]
        torch.testing.assert_close(found[row], drawn[row], rtol=0, atol=1e-6)
    # Under guidance a batch holds all images twice.
    sample = torch.randn(3, *LAW.shape, generator=seeded(), dtype=torch.float64)
    once, twice = (tilted.unet(torch.cat([sample] * times), 400).sample for times in (1, 2))
    torch.testing.assert_close(twice, torch.cat([once, once]))
    with pytest.raises(ShapeError, match="was given"):
        tilted(batch_size=4)


def test_a_learned_variance_is_passed_through() -> None:
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    pipeline, own = (plain(law, scheduler, learned_variance=True) for law in (LAW, TILTED))
    tilted = tilted_pipeline(pipeline, THETA, exact=True)
    output = tilted.unet(torch.zeros(2, *LAW.shape, dtype=torch.float64), 300).sample
    assert output.shape == (2, 2, 4, 4) and torch.equal(output[:, 1:], torch.full_like(output[:, 1:], 7.0))
    drawn = own(batch_size=2, generator=seeded())["samples"]
    torch.testing.assert_close(tilted(batch_size=2, generator=seeded())["samples"], drawn, rtol=0, atol=1e-5)


def remembered(pipeline: Any, switch: float = 1.0) -> TiltedLaw:
    """A tilted law whose particles are exact draws."""
    base = ak.base.from_diffusers(pipeline, dtype="float64")
    return TiltedLaw(base, THETA, particles=ak.base.Empirical(TILTED.sample(500, seed=1)), switch=switch)


def test_particles_answer_from_the_switch_on_without_the_network() -> None:
    pipeline = plain()
    law = remembered(pipeline)
    tilted = ak.tilted_pipeline(pipeline, law)
    pipeline.unet.calls = 0
    found = tilted(batch_size=5, num_inference_steps=10, generator=seeded())
    levels = [float(law.base.parametrisation.sigma(timestep.double()[None])) for _, timestep, _ in found["calls"]]
    assert pipeline.unet.calls == sum(level < 1 for level in levels) == 3
    for (sample, _, output), level in zip(found["calls"], levels, strict=True):
        x = sample * (1 + level**2) ** 0.5
        denoised = law.denoise(x, torch.full((5,), level, dtype=torch.float64))
        torch.testing.assert_close(output, (x - denoised) / level, rtol=1e-6, atol=1e-6)
    # Rows on both sides of the switch.
    mixed = tilted.unet(found["calls"][0][0][:2], torch.tensor([10, 900])).sample
    for row, timestep in enumerate((10, 900)):
        alone = tilted.unet(found["calls"][0][0][row : row + 1], timestep).sample
        torch.testing.assert_close(mixed[row : row + 1], alone)


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_particles_answer_at_any_noise(kind: str) -> None:
    pipeline = plain(scheduler=getattr(diffusers, kind)())
    law = remembered(pipeline)
    tilted = tilted_pipeline(pipeline, law)
    assert law.particles is not None
    truth = PlainPipeline(mixture_network(law.particles, pipeline.scheduler), pipeline.scheduler)  # type: ignore[arg-type]
    calls = tilted(batch_size=3, num_inference_steps=8, generator=seeded())["calls"]
    for sample, timestep, output in calls[:3]:
        torch.testing.assert_close(output, truth.unet(sample, timestep).sample, rtol=1e-4, atol=1e-4)


def test_particles_answer_at_the_level_of_the_sample_where_timesteps_are_rounded() -> None:
    pipeline = plain(scheduler=diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True))
    law = remembered(pipeline)
    assert law.particles is not None
    tilted = tilted_pipeline(pipeline, law)
    calls = tilted(batch_size=3, num_inference_steps=10, generator=seeded())["calls"]
    for (sample, timestep, output), sigma in zip(calls[:4], tilted.scheduler.sigmas[:4].double(), strict=True):
        x = sample * (1 + sigma**2) ** 0.5
        denoised = law.particles.denoise(x, sigma.expand(3))
        torch.testing.assert_close(output, (x - denoised) / sigma, rtol=1e-6, atol=1e-6)
        told = law.base.parametrisation.sigma(timestep.double()[None])  # type: ignore[attr-defined]
        assert abs(float(told) / float(sigma) - 1) > 1e-5 or timestep == 999


def test_a_learned_variance_beside_particles() -> None:
    for kind, value in (("learned_range", 7.0), ("fixed_small", 0.0)):
        scheduler = DDPMScheduler(variance_type=kind, clip_sample=False)
        pipeline = plain(LAW, scheduler, learned_variance=True)
        tilted = tilted_pipeline(pipeline, remembered(pipeline))
        pipeline.unet.calls = 0
        output = tilted.unet(torch.zeros(1, *LAW.shape, dtype=torch.float64), 900).sample
        assert output.shape == (1, 2, 4, 4) and bool((output[:, 1:] == value).all())
        assert pipeline.unet.calls == (value == 7.0)


def test_networks_that_answer_otherwise_are_answered_for_in_their_form() -> None:
    class Bare(nn.Module):
        """No `return_dict`, and a tensor for an answer."""

        def __init__(self, form: Any) -> None:
            super().__init__()
            self.form = form
            self.network = mixture_network(LAW, DDIMScheduler(clip_sample=False))

        def forward(self, x: Any, t: Any) -> Any:
            return self.form(self.network(x, t).sample)

    sample = torch.zeros(1, *LAW.shape, dtype=torch.float64)
    for form, kind in (
        (lambda x: x, torch.Tensor),
        (lambda x: (x, 1), tuple),
        (lambda x: SimpleNamespace(sample=x), None),
    ):
        network = Bare(form)
        pipeline = PlainPipeline(network, DDIMScheduler(clip_sample=False))
        base = ak.base.from_diffusers(network, pipeline.scheduler, shape=LAW.shape, dtype="float64")
        law = TiltedLaw(base, THETA, particles=ak.base.Empirical(TILTED.sample(50, seed=1)), switch=1.0)
        unet = tilted_pipeline(pipeline, law).unet
        for timestep in (900, 10, 900):
            answer = unet(sample, t=timestep)
            assert isinstance(answer, kind) if kind else answer.sample.shape == sample.shape
        assert network.network.calls <= 5


def test_a_calibrated_tilt_of_a_network_that_claims_nothing_reaches_the_tilted_law() -> None:
    pipeline = plain(scheduler=DDPMScheduler(clip_sample=False), dtype=torch.float32)
    tilted = ak.tilted_pipeline(pipeline, THETA, seed=0)
    rows = 1500
    draws = tilted(batch_size=rows, num_inference_steps=60, generator=seeded())["samples"].double().numpy()
    along = draws.reshape(rows, -1) @ THETA.ravel()
    mean, sd = TILTED.mean @ THETA.ravel(), np.sqrt(THETA.ravel() @ TILTED.covariance @ THETA.ravel())
    base_sd = np.sqrt(THETA.ravel() @ LAW.covariance @ THETA.ravel())
    # Draws, and particles of which about a thousand are independent.
    assert abs(along.mean() - mean) <= 3 * sd * np.hypot(rows**-0.5, 1000**-0.5) + 0.05 * base_sd
    assert abs(along.mean() - LAW.mean @ THETA.ravel()) > sd


def small_pipeline() -> Any:
    pipeline = DDIMPipeline(unet(), DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


SMALL_THETA = np.linspace(-0.5, 0.5, 64).reshape(1, 8, 8)


@torch.no_grad()
def test_sequences_have_one_axis_beside_their_channels() -> None:
    pipeline = PlainPipeline(sequence_unet(), DDPMScheduler())
    theta, sample = np.linspace(-0.5, 0.5, 64), torch.randn(3, 2, 32, generator=seeded())
    retained = float(pipeline.scheduler.alphas_cumprod[400])
    sigma = ((1 - retained) / retained) ** 0.5
    shift = torch.tensor(theta.reshape(2, 32), dtype=torch.float32)
    truth = pipeline.unet(sample + retained**0.5 * sigma**2 * shift, torch.tensor(400)).sample - sigma * shift
    for given in (theta, theta.reshape(2, 32)):
        tilted = tilted_pipeline(pipeline, given, calibrate=False)
        torch.testing.assert_close(tilted.unet(sample, torch.tensor(400)).sample, truth, rtol=1e-4, atol=1e-4)


def test_the_given_pipeline_is_unchanged_and_shares_all_else() -> None:
    pipeline = small_pipeline()
    network = pipeline.unet
    options: dict[str, Any] = {"batch_size": 2, "num_inference_steps": 3, "output_type": "np"}
    before = pipeline(**options, generator=seeded()).images
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    attributes, configs = set(vars(network)), (dict(network.config), dict(pipeline.config))
    tilted = tilted_pipeline(pipeline, SMALL_THETA, calibrate=False)
    changed = tilted(**options, generator=seeded()).images
    assert np.abs(changed - before).max() > 1e-3
    assert pipeline.unet is network and "forward" not in vars(network) and set(vars(network)) == attributes
    assert configs == (dict(network.config), dict(pipeline.config))
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert np.array_equal(pipeline(**options, generator=seeded()).images, before)
    assert tilted.scheduler is pipeline.scheduler and dict(tilted.config) == dict(pipeline.config)
    drop_in = tilted.unet
    assert type(drop_in) is type(network) and drop_in.config is network.config
    assert (drop_in.dtype, drop_in.device) == (network.dtype, network.device)
    assert all(ours is theirs for ours, theirs in zip(drop_in.parameters(), network.parameters(), strict=True))
    # It can be taken apart and put together again, as diffusers' pipelines are.
    again = DDPMPipeline(**{**tilted.components, "scheduler": DDPMScheduler()})
    assert again.unet is drop_in


def test_moving_and_casting_go_through_to_the_shared_weights() -> None:
    pipeline = small_pipeline()
    tilted = tilted_pipeline(pipeline, SMALL_THETA, calibrate=False)
    assert tilted.to(torch.bfloat16) is tilted
    assert tilted.unet.dtype == pipeline.unet.dtype == torch.bfloat16
    pictures = tilted(batch_size=1, num_inference_steps=2, output_type="pt", generator=seeded()).images
    assert pictures.dtype == torch.bfloat16
    assert tilted.unet.half().dtype == torch.float16 == pipeline.unet.dtype


def test_hooks_of_the_given_network_stay_in_force_and_count_once() -> None:
    pipeline, calls = small_pipeline(), []
    pipeline.unet.register_forward_hook(lambda module, given, output: calls.append(module))
    # accelerate offloads by putting its own function in the place of `forward`.
    given_forward = pipeline.unet.forward

    def offloading(*args: Any, **kwargs: Any) -> Any:
        calls.append("offloading")
        return given_forward(*args, **kwargs)

    pipeline.unet._old_forward, pipeline.unet.forward = given_forward, offloading
    freed: list[str] = []
    pipeline._all_hooks, pipeline.maybe_free_model_hooks = ["a hook"], lambda: freed.append("freed")
    tilted = tilted_pipeline(pipeline, SMALL_THETA, calibrate=False)
    tilted.unet.register_forward_hook(lambda module, given, output: calls.append("tilted"))
    tilted(batch_size=1, num_inference_steps=2)
    assert calls == ["offloading", pipeline.unet, "tilted"] * 2
    assert freed == ["freed"]
    pipeline(batch_size=1, num_inference_steps=1)
    assert calls[6:] == ["offloading", pipeline.unet]
    # Told by name, too, though what stands in the place of `forward` names nothing.
    sample = torch.zeros(1, 1, 8, 8)
    by_name, by_place = tilted.unet(timestep=300, sample=sample).sample, tilted.unet(sample, 300).sample
    assert torch.equal(by_name, by_place)


@pytest.mark.parametrize("how", ["function", "method"])
def test_compiled_networks_stay_compiled(how: str) -> None:
    pipeline = small_pipeline()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    truth = tilted_pipeline(small_pipeline(), SMALL_THETA, calibrate=False)
    if how == "function":
        pipeline.unet = torch.compile(pipeline.unet, backend=backend)
    else:
        pipeline.unet.compile(backend=backend)
    tilted = tilted_pipeline(pipeline, SMALL_THETA, calibrate=False)
    assert isinstance(tilted.unet, UNet2DModel)
    options: dict[str, Any] = {"batch_size": 1, "num_inference_steps": 2, "output_type": "np"}
    drawn = tilted(**options, generator=seeded()).images
    assert graphs
    np.testing.assert_allclose(drawn, truth(**options, generator=seeded()).images, atol=1e-5)


def test_what_is_tilted_is_not_saved(tmp_path: Any) -> None:
    tilted = tilted_pipeline(small_pipeline(), SMALL_THETA, calibrate=False)
    for part in (tilted, tilted.unet):
        with pytest.raises(ParameterError, match="before the tilt"):
            part.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_an_answer_that_is_not_finite_names_its_timestep() -> None:
    class Failing(MixtureNetwork):
        def answer(self, sample: Any, timestep: Any) -> Any:
            found = super().answer(sample, timestep)
            return torch.where(timestep.reshape(-1, 1, 1, 1) < 600, torch.nan, found)

    pipeline = plain()
    pipeline.unet.__class__ = Failing
    tilted = tilted_pipeline(pipeline, THETA, exact=True)
    with pytest.raises(NonFiniteError, match=r"Failing gave NaN .* timestep 498, σ = 3\.4"):
        tilted(batch_size=2, generator=seeded())


def test_what_does_not_fit_is_refused() -> None:
    pipeline, other = plain(), plain()
    law = remembered(pipeline)
    cases: list[tuple[type[Exception], str, Any, Any, dict[str, Any]]] = [
        (ShapeError, r"draws of PlainPipeline have shape \(1, 4, 4\)", pipeline, THETA[0], {"exact": True}),
        (ShapeError, "has shape", pipeline, np.ones((2, 1, 4, 5)), {"calibrate": False}),
        (ShapeError, "one law for each tilt", pipeline, np.ones((2, 1, 4, 4)), {}),
        (NonFiniteError, "NaN", pipeline, np.full(LAW.shape, np.nan), {"exact": True}),
        (ParameterError, "another network", other, law, {}),
        (ParameterError, "no tilt of a model", pipeline, TILTED, {}),
        (ParameterError, "options of its own", pipeline, law, {"guidance_scale": 2.0}),
        (ParameterError, "there is none", pipeline, THETA, {"exact": True, "prompt": "a cat"}),
        (ParameterError, "by itself", pipeline.unet, THETA, {}),
        (ParameterError, r"not the base law(.|\n)*Pass base\.pipeline", law, THETA, {}),
        (ParameterError, "cannot be mapped", plain(), THETA, {"exact": True}),
    ]
    cases[-1][2].scheduler = diffusers.LCMScheduler()
    for kind, message, given, theta, options in cases:
        with pytest.raises(kind, match=message):
            tilted_pipeline(given, theta, **options)
    flat = tilted_pipeline(pipeline, THETA.ravel(), exact=True)(batch_size=1, generator=seeded())["samples"]
    whole = tilted_pipeline(pipeline, THETA, exact=True)(batch_size=1, generator=seeded())["samples"]
    assert torch.equal(flat, whole)
