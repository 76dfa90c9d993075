"""What a tilt costs a pipeline of diffusers, at equal steps and batch, on the CPU.

Bars: at most 1.05 times the plain pipeline's time, and at most 1.1 times its peak memory beyond what the process holds
before, with θ alone and with 4,096 particles (which are held, and take twice their own size in single precision beside
what `ak.tilt` keeps of them). Time is the processor's, medians of interleaved pairs; memory is that of
processes of their own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alignkit as ak

SHAPE = (3, 32, 32)
ROWS, STEPS, PAIRS, PROCESSES, PARTICLES = 8, 2, 9, 3, 4096
TIME_BAR, MEMORY_BAR = 1.05, 1.1
KINDS = ("plain", "tilted", "particles")


def pipelines() -> dict[str, Any]:
    """A plain pipeline around a U-Net of random weights, and the same with θ, without and with particles."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    from alignkit.tilting.tilted_law import TiltedLaw

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()
    plain = DDIMPipeline(network, DDIMScheduler())
    plain.set_progress_bar_config(disable=True)
    theta = np.full(SHAPE, 2 / 3072**0.5)
    draws = np.random.default_rng(0).normal(size=(PARTICLES, *SHAPE)) / 2
    law = TiltedLaw(ak.base.from_diffusers(plain), theta, particles=ak.base.Empirical(draws), switch=1.0)
    return {
        "plain": plain,
        "tilted": ak.tilted_pipeline(plain, theta, calibrate=False),
        "particles": ak.tilted_pipeline(plain, law),
    }


def draw(pipeline: Any, seed: int, rows: int = ROWS) -> None:
    generator = torch.Generator().manual_seed(seed)
    pipeline(batch_size=rows, num_inference_steps=STEPS, generator=generator, output_type="np")


def run() -> bool:
    torch.set_num_threads(1)
    ready = pipelines()
    parameters = sum(parameter.numel() for parameter in ready["plain"].unet.parameters())
    print(f"U-Net of {parameters / 1e6:.1f} M parameters, {SHAPE}, {ROWS} rows, {STEPS} steps")
    for pipeline in ready.values():
        draw(pipeline, seed=0, rows=1)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for pair in range(PAIRS):
        # Alternate who goes first, so that no kind always finds the caches warm.
        for kind in KINDS if pair % 2 else KINDS[::-1]:
            start = time.process_time()
            draw(ready[kind], seed=pair)
            seconds[kind].append(time.process_time() - start)
    bytes_ = {kind: statistics.median(_peak(kind) for _ in range(PROCESSES)) for kind in KINDS}
    held = True
    for kind in KINDS:
        ratios = [ours / theirs for ours, theirs in zip(seconds[kind], seconds["plain"], strict=True)]
        in_time, in_memory = statistics.median(ratios), bytes_[kind] / bytes_["plain"]
        print(
            f"{kind:<10} {statistics.median(seconds[kind]):7.3f} s, {in_time:.3f} of plain (median of {PAIRS})   "
            f"{bytes_[kind] / 2**20:7.1f} MB at the peak, {in_memory:.3f} of plain (median of {PROCESSES})"
        )
        held &= in_time <= TIME_BAR and in_memory <= MEMORY_BAR
    return held


def _peak(kind: str) -> int:
    """The peak memory of a call, in a process of its own, beyond what it held before, in bytes."""
    code = f"from tests.benchmarks.tilted_pipeline import print_peak; print_peak({kind!r})"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def print_peak(kind: str) -> None:
    """Print by how many bytes a call raises what the process holds, at its peak."""
    torch.set_num_threads(1)
    pipeline = pipelines()[kind]
    # What is made once and kept is not of a call; nor are a library's own pages, read in when they are first run.
    draw(pipeline, seed=0, rows=1)
    # The peak so far is that of imports and the like; Linux forgets it on this.
    Path("/proc/self/clear_refs").write_text("5")
    before = _held("VmRSS")
    draw(pipeline, seed=0)
    print(_held("VmHWM") - before)


def _held(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
