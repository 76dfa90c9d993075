"""`alignkit demo`: two alignments of the shipped model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import alignkit as ak
from alignkit.cli.arguments import add_command
from alignkit.report.samples import sample_figure

__all__ = ["add_to"]

_SHOWN = 16


def add_to(commands: Any) -> None:
    """Add the command."""
    demo = add_command(
        commands,
        "demo",
        _demo,
        summary="align the shipped digits model under both closenesses and write a picture",
        description="Align the shipped diffusion model of handwritten digits twice, to an affine reward under KL and "
        "to a concave one under Wasserstein closeness; print plans and certificates, and write a picture.",
        example="alignkit demo --output digits.png",
    )
    demo.add_argument(
        "--output", type=Path, default=Path("alignkit-demo.png"), help="the picture to write (%(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="fixes every draw (%(default)s)")


def _demo(options: argparse.Namespace) -> int:
    # Before the work, so that a path that cannot be written costs nothing.
    options.output.parent.mkdir(parents=True, exist_ok=True)
    base = ak.base.digits()
    x = ak.Variable(base.shape)

    top_minus_bottom = ak.sum(x[:4, :]) - ak.sum(x[4:, :])
    print("── KL: digits whose ink is at the top ──\n")
    tilted = ak.Problem(top_minus_bottom, base, ak.KL(weight=4.0)).solve(seed=options.seed, verbose=True)
    print(f"\n{tilted}\n")

    asymmetry = ak.norm1(x - x[:, ::-1])
    print("── Wasserstein: the smallest edit that makes each digit symmetric ──\n")
    moved = ak.Problem(-asymmetry, base, ak.Wasserstein(weight=2.0)).solve(seed=options.seed, verbose=True)
    print(f"\n{moved}\n")

    drawn, transported = moved.sample(_SHOWN, seed=options.seed + 1, return_base=True)
    aligned = tilted.sample(_SHOWN, seed=options.seed + 1)
    panels = {"base model": drawn, "transported": transported, "KL aligned": aligned}
    sample_figure(panels).savefig(options.output, dpi=150)
    print(f"Pictures: {options.output}")
    return 0
