"""Base laws of diffusers' models: what they are made from, how networks are called, and bad input."""

from __future__ import annotations

import copy
import json
import shutil
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit_diffusers.law import DiffusersLaw
from alignkit_diffusers.network_denoiser import place_of
from tests.diffusers.networks import mixture, mixture_network
from tests.diffusers.small_networks import sequence_unet, transformer, unet

DDPM = diffusers.DDPMScheduler(clip_sample=False)


def states(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def rows(law, sigma=0.7, n=3):
    x = np.random.default_rng(0).normal(size=(n, *law.shape))
    return torch.tensor(x, dtype=getattr(torch, law.dtype)), torch.full((n,), sigma, dtype=getattr(torch, law.dtype))


class TestSources:
    def test_a_pipeline(self):
        pipeline = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())
        law = ak.base.from_diffusers(pipeline, nfe=9)
        assert isinstance(law, DiffusersLaw)
        assert law.shape == (1, 8, 8)
        assert law.pipeline is pipeline and law.network is pipeline.unet and law.scheduler is pipeline.scheduler
        assert (law.data_range, law.tail, law.name, law.exact) == ((-1.0, 1.0), "bounded", "DDPMPipeline", False)
        assert law.parametrisation.prediction == "epsilon"
        draws = law.sample(2, seed=0)
        assert draws.shape == (2, 1, 8, 8) and np.abs(draws).max() <= 1

    def test_a_network_and_a_scheduler(self):
        network = unet()
        law = ak.base.from_diffusers(network, DDPM)
        x, _ = rows(law)
        # By hand, at a whole timestep.
        timestep = 400
        retained = DDPM.alphas_cumprod[timestep]
        level = ((1 - retained) / retained).sqrt()
        with torch.no_grad():
            noise = network(x * retained.sqrt(), torch.tensor(timestep)).sample
        torch.testing.assert_close(law.denoise(x, level.expand(3)), x - level * noise, rtol=1e-4, atol=1e-4)
        assert law.pipeline is None

    def test_another_scheduler_in_place_of_the_pipelines_own(self):
        pipeline = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())
        law = ak.base.from_diffusers(pipeline, diffusers.FlowMatchEulerDiscreteScheduler())
        assert law.parametrisation.prediction == "flow_prediction" and law.data_range is None

    @pytest.mark.parametrize("kind", ["tensor", "tuple", "object"])
    def test_any_callable(self, kind):
        def network(sample, timestep):
            assert timestep.shape == sample.shape[:1]
            found = torch.zeros_like(sample)
            return {"tensor": found, "tuple": (found,), "object": SimpleNamespace(sample=found)}[kind]

        law = ak.base.from_diffusers(network, DDPM, shape=(5,))
        x, sigma = rows(law)
        torch.testing.assert_close(law.denoise(x, sigma), x)
        assert law.shape == (5,) and law.row_bytes is None and law.name == "network"

    def test_a_network_of_sequences(self):
        assert ak.base.from_diffusers(sequence_unet(), DDPM).shape == (2, 32)

    def test_a_transformer(self):
        law = ak.base.from_diffusers(transformer(sample_size=4), DDPM, class_labels=3)
        # The second half of its channels is a learned variance.
        assert law.shape == (2, 4, 4)

    def test_a_timestep_that_is_looked_up(self):
        law = ak.base.from_diffusers(unet(time_embedding_type="learned", num_train_timesteps=1000), DDPM, nfe=9)
        assert np.isfinite(law.sample(1, seed=0)).all()


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path):
        diffusers.DDPMPipeline(unet(), DDPM).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    def test_of_a_pipeline(self, folder):
        law = ak.base.from_diffusers(str(folder))
        ours = ak.base.from_diffusers(diffusers.DDPMPipeline(unet(), DDPM))
        x, sigma = rows(law)
        torch.testing.assert_close(law.denoise(x, sigma), ours.denoise(x, sigma))
        assert isinstance(law.pipeline, diffusers.DDPMPipeline)

    def test_of_a_network(self, folder):
        law = ak.base.from_diffusers(folder / "unet", DDPM)
        assert law.shape == (1, 8, 8) and law.name == "UNet2DModel"

    @pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"])
    @pytest.mark.parametrize("part", [False, True])
    def test_pickled_weights_are_refused(self, folder, name, part):
        (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / name)
        with pytest.raises(ParameterError, match=f"pickled.*{name}.*code") as caught:
            ak.base.from_diffusers(folder / "unet" if part else folder, DDPM)
        assert "save_pretrained" in caught.value.ways_out[0]

    def test_a_pickle_beside_safetensors_is_not_read(self, folder):
        (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not a pickle")
        assert ak.base.from_diffusers(folder).shape == (1, 8, 8)

    def test_a_folder_that_is_not_there_is_not_downloaded(self):
        with pytest.raises(ParameterError, match=r"no folder 'google/ddpm-cifar10-32'.*downloads no models"):
            ak.base.from_diffusers("google/ddpm-cifar10-32")

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(ParameterError, match=r"neither model_index\.json nor config\.json"):
            ak.base.from_diffusers(tmp_path)

    def test_a_folder_that_brings_its_code_along(self, folder):
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["pipeline", "Mine"]}))
        with pytest.raises(ParameterError, match="not one of diffusers' own"):
            ak.base.from_diffusers(folder)

    def test_a_folder_without_weights(self, folder):
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(ParameterError, match="could not load"):
            ak.base.from_diffusers(folder)

    def test_a_folder_without_a_part(self, folder):
        shutil.rmtree(folder / "scheduler")
        with pytest.raises(ParameterError, match="could not load"):
            ak.base.from_diffusers(folder)


class TestHowTheNetworkIsCalled:
    def test_it_is_left_as_it_was(self):
        network = unet(dropout=0.5).train()
        # A part in another mode than the whole.
        network.mid_block.eval()
        before, modes = states(network), [module.training for module in network.modules()]
        scheduler = copy.deepcopy(DDPM)
        law = ak.base.from_diffusers(network, scheduler)
        x, sigma = rows(law)
        assert torch.equal(law.denoise(x, sigma), law.denoise(x, sigma)), "dropout is off"
        assert [module.training for module in network.modules()] == modes
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        assert all(not module._forward_hooks for module in network.modules())
        assert scheduler.config == DDPM.config and torch.equal(scheduler.timesteps, DDPM.timesteps)

    def test_no_gradient_is_recorded(self):
        law = ak.base.from_diffusers(unet(), DDPM)
        assert not law.denoise(*rows(law)).requires_grad

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_in_its_own_precision(self, dtype):
        seen = []

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1, dtype=dtype))

            def forward(self, sample, timestep):
                seen.append((sample.dtype, timestep.dtype))
                return self.weight * sample

        law = ak.base.from_diffusers(Network(), DDPM, shape=(4,))
        assert law.denoise(*rows(law)).dtype == torch.float32
        assert set(seen) == {(dtype, torch.float64 if dtype == torch.float64 else torch.float32)}

    def test_half_precision_weights_of_diffusers_own(self):
        exact = ak.base.from_diffusers(unet(), DDPM)
        half = ak.base.from_diffusers(unet().to(torch.bfloat16), DDPM, nfe=9)
        x, sigma = rows(exact)
        # Eight bits of the noise, which is about 1 in size.
        torch.testing.assert_close(half.denoise(x, sigma), exact.denoise(x, sigma), rtol=0, atol=0.05)
        assert half.sample(2, seed=0).dtype == np.float32

    def test_compiled(self):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Conv2d(1, 1, 3, padding=1)

            def forward(self, sample, timestep):
                return self.layer(sample) * timestep.reshape(-1, 1, 1, 1)

        network = Network()
        plain = ak.base.from_diffusers(network, DDPM, shape=(1, 8, 8))
        compiled = ak.base.from_diffusers(torch.compile(network, backend="eager"), DDPM, shape=(1, 8, 8))
        assert compiled.row_bytes == plain.row_bytes
        x, sigma = rows(plain)
        torch.testing.assert_close(compiled.denoise(x, sigma), plain.denoise(x, sigma))

    def test_learned_variance_is_dropped(self):
        exact = mixture()
        plain = ak.base.from_diffusers(mixture_network(exact, DDPM), DDPM)
        learned = ak.base.from_diffusers(mixture_network(exact, DDPM, learned_variance=True), DDPM)
        x, sigma = rows(plain)
        assert learned.shape == plain.shape
        assert torch.equal(learned.denoise(x, sigma), plain.denoise(x, sigma))

    def test_clipped_to_what_the_scheduler_clips_to(self):
        exact = mixture()
        scheduler = diffusers.DDIMScheduler(clip_sample_range=0.5)
        law = ak.base.from_diffusers(mixture_network(exact, scheduler), scheduler, dtype="float64")
        x, sigma = rows(law)
        torch.testing.assert_close(law.denoise(x, sigma), exact.denoise(x, sigma).clip(-0.5, 0.5))

    def test_the_first_evaluation_of_what_is_drawn_is_at_most_at_160(self):
        told = []
        flow = diffusers.FlowMatchEulerDiscreteScheduler()

        def network(sample, timestep):
            told.append(float(timestep.max()))
            return torch.zeros_like(sample)

        law = ak.base.from_diffusers(network, flow, shape=(4,))
        law.sample(2, seed=0)
        assert law.sigma_max == 160 and law.parametrisation.sigma_max == 999
        assert max(told) == pytest.approx(1000 * 160 / 161)
        assert ak.base.from_diffusers(network, flow, shape=(4,), sigma_max=900.0).sigma_max == 900


class TestMemory:
    def test_a_row_is_measured_and_may_be_given(self):
        law = ak.base.from_diffusers(unet(), DDPM)
        # At least the widest layer's outputs: 8 channels of 8×8 in single precision, one for its input.
        assert 2 * 8 * 64 * 4 < law.row_bytes < 1 << 20
        assert ak.base.from_diffusers(unet(), DDPM, row_bytes=12345).row_bytes == 12345

    def test_it_grows_with_the_sample(self):
        small, large = (ak.base.from_diffusers(unet(sample_size=side), DDPM).row_bytes for side in (16, 32))
        assert 3 < large / small <= 4


class TestEndToEnd:
    EXACT = mixture()

    @pytest.fixture
    def law(self):
        return ak.base.from_diffusers(
            mixture_network(self.EXACT, DDPM, dtype=torch.float32), DDPM, exact=True, tail=0.25
        )

    def test_an_affine_reward(self, law):
        theta = np.random.default_rng(5).normal(size=law.shape)
        theta *= 2 / np.linalg.norm(theta)
        aligned = ak.Problem(ak.inner(theta, ak.Variable(law.shape)), law, ak.KL(weight=1.0)).solve(seed=0)
        found = aligned.log_partition
        assert abs(found.value - float(self.EXACT.log_partition(theta)[0])) < 0.02 + 4 * found.standard_error
        n = 2000
        draws = aligned.sample(n, seed=1).reshape(n, -1).astype(float) @ theta.reshape(-1)
        truth = self.EXACT.tilt(theta)
        mean = truth.mean @ theta.reshape(-1)
        spread = np.sqrt(theta.reshape(-1) @ truth.covariance @ theta.reshape(-1) / n)
        assert abs(draws.mean() - mean) < 4.5 * spread + 0.01

    def test_a_transport_problem(self, law):
        x = ak.Variable(law.shape)
        aligned = ak.Problem(-ak.norm1(x), law, ak.Wasserstein(weight=2.0)).solve(seed=0)
        base, edited = aligned.sample(50, seed=1, return_base=True)
        # Of −‖y‖₁ − λ/2·‖x − y‖²: soft thresholding by 1/λ.
        expected = np.sign(base) * np.maximum(np.abs(base) - 0.5, 0)
        np.testing.assert_allclose(edited, expected, atol=1e-4)

    def test_draws_do_not_depend_on_the_batch(self, law):
        np.testing.assert_allclose(law.sample(7, seed=3)[:4], law.sample(4, seed=3), atol=1e-4)

    def test_solver_and_evaluations_are_the_users_choice(self):
        network = mixture_network(self.EXACT, DDPM)
        law = ak.base.from_diffusers(network, DDPM, exact=True, solver="heun", nfe=11)
        network.calls = network.rows = 0
        law.sample(5, seed=0)
        # A row alone, two together, and one that finds the base's own mean at σ_max.
        assert network.rows == 5 * 11 + 1 + 2 + 1
        assert (law.solver, law.nfe) == ("heun", 11)


class TestBadInput:
    def test_not_a_model(self):
        with pytest.raises(ParameterError, match="not of dict"):
            ak.base.from_diffusers({}, DDPM)

    def test_a_network_without_a_scheduler(self):
        with pytest.raises(ParameterError, match="does not say how it was noised") as caught:
            ak.base.from_diffusers(unet())
        assert "DDPMScheduler" in caught.value.ways_out[0]

    @pytest.mark.parametrize("scheduler", ["ddpm", 3, unet])
    def test_not_a_scheduler(self, scheduler):
        with pytest.raises(ParameterError, match="must be a scheduler of diffusers"):
            ak.base.from_diffusers(unet(), scheduler)

    def test_a_scheduler_that_cannot_be_mapped(self):
        with pytest.raises(ParameterError, match="LCMScheduler"):
            ak.base.from_diffusers(unet(), diffusers.LCMScheduler())

    def test_a_pipeline_without_a_denoising_network(self):
        class Other(diffusers.DiffusionPipeline):
            def __init__(self, decoder, scheduler):
                super().__init__()
                self.register_modules(decoder=decoder, scheduler=scheduler)

        with pytest.raises(ParameterError, match="'unet' or 'transformer'; its components are decoder, scheduler"):
            ak.base.from_diffusers(Other(unet(), DDPM))

    def test_a_network_that_does_not_denoise_alone(self):
        class Controlled(diffusers.DiffusionPipeline):
            def __init__(self, unet, controlnet, scheduler):
                super().__init__()
                self.register_modules(unet=unet, controlnet=controlnet, scheduler=scheduler)

        with pytest.raises(ParameterError, match="Controlled does not denoise alone: controlnet"):
            ak.base.from_diffusers(Controlled(unet(), unet(), DDPM))
        assert ak.base.from_diffusers(Controlled(unet(), None, DDPM)).shape == (1, 8, 8)

    @pytest.mark.parametrize("shape", [(1, 8), (8, 8, 1), (2, 8, 8)])
    def test_a_shape_that_disagrees_with_the_network(self, shape):
        with pytest.raises(ShapeError, match="3 axes, the first its 1 channels"):
            ak.base.from_diffusers(unet(), DDPM, shape=shape)

    def test_a_size_that_the_network_cannot_halve(self):
        with pytest.raises(ShapeError, match=r"failed on a sample of shape \(1, 1, 7, 7\)"):
            ak.base.from_diffusers(unet(), DDPM, shape=(1, 7, 7))

    def test_another_size_that_it_can(self):
        assert ak.base.from_diffusers(unet(), DDPM, shape=(1, 8, 16), nfe=9).sample(1, seed=0).shape == (1, 1, 8, 16)

    @pytest.mark.parametrize("shape", [(), (0, 4), (True,), (2.5,)])
    def test_not_a_shape(self, shape):
        with pytest.raises(ParameterError, match="tuple of positive integers"):
            ak.base.from_diffusers(lambda sample, timestep: sample, DDPM, shape=shape)

    def test_no_shape_at_all(self):
        with pytest.raises(ParameterError, match="does not say the shape") as caught:
            ak.base.from_diffusers(lambda sample, timestep: sample, DDPM)
        assert "shape=" in caught.value.ways_out[0]

    def test_a_network_that_answers_with_another_shape(self):
        with pytest.raises(ShapeError, match=r"answered with shape \(1, 2\) for a sample of shape \(1, 4\)"):
            ak.base.from_diffusers(lambda sample, timestep: sample[:, :2], DDPM, shape=(4,))

    def test_a_network_that_is_told_of_more_than_the_sample(self):
        with pytest.raises(ParameterError, match="takes 3 channels and answers with 1"):
            ak.base.from_diffusers(unet(in_channels=3), DDPM)

    def test_a_variable_of_another_shape(self):
        law = ak.base.from_diffusers(unet(), DDPM)
        with pytest.raises(ShapeError):
            ak.Problem(ak.mean(ak.Variable((8, 8))), law, ak.KL(weight=1.0)).compile()

    def test_a_network_that_answers_noise_with_nan(self):
        with pytest.raises(NonFiniteError, match=r"'lost' gave NaN.*σ = 1,"):
            ak.base.from_diffusers(lambda sample, timestep: sample * torch.nan, DDPM, shape=(4,), name="lost")

    def test_what_is_not_finite_on_the_way_is_reported_with_its_step_and_level(self):
        def network(sample, timestep):
            return torch.where(timestep.reshape(-1, 1) < 100, torch.inf, 0.0) * torch.ones_like(sample)

        law = ak.base.from_diffusers(network, DDPM, shape=(4,), exact=True, nfe=20)
        with pytest.raises(NonFiniteError, match=r"step \d+ of 20, at σ = 0\.") as caught:
            law.sample(3, seed=0)
        level = float(caught.value.message.split("σ = ")[1].split(",")[0].rstrip("."))
        retained = DDPM.alphas_cumprod[100]
        assert level < float(((1 - retained) / retained).sqrt())

    @pytest.mark.parametrize("option", [{"sigma_max": 1000.0}, {"sigma_min": 1e-4}])
    def test_levels_that_the_network_never_saw(self, option):
        with pytest.raises(ParameterError, match=r"from 0\.01 to 157\.4"):
            ak.base.from_diffusers(unet(), DDPM, **option)

    def test_a_device_that_is_not_there(self):
        with pytest.raises(ParameterError, match="cannot use the device 'tpu9'"):
            ak.base.from_diffusers(unet(), DDPM, device="tpu9")

    @pytest.mark.parametrize("option", [{"dtype": "float16"}, {"tail": -1.0}, {"nfe": 0}, {"row_bytes": 0.5}])
    def test_options_of_any_denoiser(self, option):
        with pytest.raises(ParameterError):
            ak.base.from_diffusers(unet(), DDPM, **option)


class TestWhereANetworkLies:
    def test_by_its_parameters(self):
        assert place_of(unet().to(torch.bfloat16)) == (torch.device("cpu"), torch.bfloat16)
        assert place_of(torch.compile(unet().double(), backend="eager")) == (torch.device("cpu"), torch.float64)

    def test_without_parameters_or_by_a_buffer(self):
        assert place_of(lambda sample, timestep: sample) == place_of(nn.Identity()) == (None, None)
        assert place_of(mixture_network(mixture(), DDPM)) == (torch.device("cpu"), torch.float64)

    def test_offloaded_parameters_are_not_where_it_is_called(self):
        network = unet().to("meta")
        assert place_of(network) == (None, torch.float32)
        # What accelerate's hooks carry.
        network._hf_hook = SimpleNamespace(execution_device="cuda:0")
        assert place_of(network)[0] == torch.device("cuda", 0)

    @pytest.mark.parametrize(
        "scheduler", [DDPM, diffusers.EDMEulerScheduler(), diffusers.FlowMatchEulerDiscreteScheduler()]
    )
    def test_nothing_is_read_back_from_where_it_lies(self, scheduler):
        """Tensors on the meta device have no values: whatever reads one raises."""
        law = ak.base.from_diffusers(unet(), scheduler)
        law.network.to("meta")
        x, sigma = (part.to("meta") for part in rows(law))
        assert law.denoise(x, sigma).shape == x.shape

    def test_weights_stored_in_eight_bits(self):
        network = unet()
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
        assert {weight.dtype for weight in network.parameters()} >= {torch.float8_e4m3fn}
        assert place_of(network)[1] == torch.bfloat16
        law = ak.base.from_diffusers(network, DDPM)
        assert torch.isfinite(law.denoise(*rows(law))).all()
