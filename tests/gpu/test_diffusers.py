"""Networks of diffusers on an accelerator: run where CUDA is present (`pytest tests/gpu`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

import alignkit as ak

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")

SCHEDULERS = {
    "DDPM": DDPMScheduler(clip_sample=False),
    "EDM": EDMEulerScheduler(),
    "flow": FlowMatchEulerDiscreteScheduler(),
}


def law_on(device, scheduler):
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
    return ak.base.from_diffusers(network.eval().to(device), SCHEDULERS[scheduler])


def rows(device):
    x = torch.tensor(np.random.default_rng(0).normal(size=(4, 1, 8, 8)), dtype=torch.float32, device=device)
    return x, torch.tensor([0.05, 0.5, 2.0, 20.0], device=device)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
class TestDenoisers:
    @pytest.mark.parametrize("network", ["cpu", "cuda"])
    @pytest.mark.parametrize("sample", ["cpu", "cuda"])
    def test_rows_may_lie_elsewhere_than_the_network(self, scheduler, network, sample):
        found = law_on(network, scheduler).denoise(*rows(sample))
        assert found.device.type == sample
        here = law_on("cpu", scheduler).denoise(*rows("cpu"))
        torch.testing.assert_close(found.cpu(), here, rtol=1e-2, atol=1e-2)

    def test_the_host_is_never_waited_for(self, scheduler):
        law = law_on("cuda", scheduler)
        x, sigma = rows("cuda")
        law.denoise(x, sigma)  # tables are moved the first time
        torch.cuda.set_sync_debug_mode("error")
        try:
            law.denoise(x, sigma)
        finally:
            torch.cuda.set_sync_debug_mode("default")
