"""The README's example of a tilted pipeline, run as it is printed."""

from __future__ import annotations

import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alignkit as ak
from alignkit.errors import CalibrationWarning

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    fenced = re.findall(r"^ *```python\n(.*?)^ *```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in fenced]


def test_a_tilted_pipeline_as_printed() -> None:
    (block,) = (block for block in blocks() if "tilted_pipeline" in block)
    names: dict[str, Any] = {"ak": ak}
    with warnings.catch_warnings():
        # What is printed has to be beyond doubt.
        warnings.simplefilter("error", CalibrationWarning)
        exec(block, names)
    law, theta = names["law"], names["theta"]
    assert law.is_trustworthy and len(names["images"]) == 4
    levels = torch.full((4,), 1.0)
    assert law(torch.randn(4, *law.shape, generator=torch.Generator().manual_seed(0)), levels).shape == (4, *law.shape)
    # Four pictures are noisy; those of the same noise without the tilt are the better comparison.
    names["pipeline"].set_progress_bar_config(disable=True)
    plain = names["pipeline"](batch_size=4, num_inference_steps=50, generator=torch.manual_seed(0)).images
    ink = [
        np.mean([np.asarray(picture, dtype=float).mean() for picture in batch]) for batch in (names["images"], plain)
    ]
    assert theta.shape == law.shape and ink[0] > ink[1]


def test_denoisers_are_called_with_options_that_exist() -> None:
    """The conventions that the README names are those of `ak.base.Denoiser`."""
    text = README.read_text(encoding="utf-8")
    (options,) = re.findall(r'flow matching is `(prediction="\w+", coordinates="\w+")`', text)
    named = dict(re.findall(r'(\w+)="(\w+)"', options))
    truth = ak.base.Gaussian([1.0, -1.0], 0.25)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x0 = truth.denoise(x / (1 - t[:, None]), t / (1 - t))
        return (x - x0) / t[:, None]

    law = ak.base.Denoiser(velocity, (2,), sigma_min=0.01, sigma_max=50.0, **named)  # type: ignore[arg-type]
    x, sigma = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.rand(5) + 0.1
    torch.testing.assert_close(law.denoise(x, sigma.double()), truth.denoise(x, sigma.double()))
