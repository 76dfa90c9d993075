"""Tilted pipelines of diffusers on an accelerator: run where CUDA is present (`pytest tests/gpu`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel

import alignkit as ak
from alignkit.tilting.tilted_law import TiltedLaw
from alignkit_diffusers.tilted_pipeline import tilted_pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")

THETA = np.linspace(-0.5, 0.5, 64).reshape(1, 8, 8)


def pipeline_on(device):
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = DDIMPipeline(network.eval(), DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@pytest.mark.parametrize("switch", [np.inf, 1.0])
def test_an_answer_is_the_hosts(switch):
    particles = np.random.default_rng(0).normal(size=(100, 1, 8, 8))
    sample = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for device in ("cuda", "cpu"):
        pipeline = pipeline_on(device)
        base = ak.base.from_diffusers(pipeline)
        law = TiltedLaw(base, THETA, particles=ak.base.Empirical(particles), switch=switch)
        tilted = tilted_pipeline(pipeline, law)
        tilted.scheduler = DPMSolverMultistepScheduler(use_karras_sigmas=True)
        tilted.scheduler.set_timesteps(6, device=device)
        outputs = [tilted.unet(sample.to(device), t).sample for t in tilted.scheduler.timesteps]
        outputs.append(tilted.unet(sample.to(device), torch.tensor([10, 500, 990], device=device)).sample)
        assert all(output.device.type == device for output in outputs)
        found.append(torch.stack(outputs).cpu())
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-2)


def test_a_pipeline_may_be_moved_after_its_tilt():
    pipeline = pipeline_on("cpu")
    tilted = tilted_pipeline(pipeline, THETA, calibrate=False)
    assert tilted.to("cuda").device.type == pipeline.unet.device.type == "cuda"
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator("cuda").manual_seed(0)
        pictures = tilted.to(dtype)(batch_size=2, num_inference_steps=3, generator=generator, output_type="pt").images
        assert pictures.device.type == "cuda" and pictures.dtype == dtype
