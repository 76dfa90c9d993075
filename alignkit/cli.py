"""The command line: `alignkit demo`, `alignkit backends` and `alignkit atoms`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import alignkit as ak
from alignkit.errors import AlignkitError
from alignkit.expressions import ENTRIES
from alignkit.report.samples import sample_figure

__all__ = ["main"]

_SHOWN = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        arguments: what follows the program's name; those of the process if None.

    Returns:
        the exit code: 0, or 1 after an alignkit or file error, whose message goes to standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (AlignkitError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alignkit",
        description="Align a diffusion model to a reward you declare, with a certificate of what was achieved.",
    )
    parser.add_argument("--version", action="version", version=f"alignkit {ak.__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    demo = commands.add_parser(
        "demo",
        help="align the shipped digits model under both closenesses and write a picture",
        description="Align the shipped diffusion model of handwritten digits twice, to an affine reward under KL and "
        "to a concave one under Wasserstein closeness; print plans and certificates, and write a picture.",
    )
    demo.add_argument(
        "--output", type=Path, default=Path("alignkit-demo.png"), help="the picture to write (%(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="fixes every draw (%(default)s)")
    demo.set_defaults(run=_demo)
    backends = commands.add_parser(
        "backends",
        help="list the backends, what each offers or why it cannot be used",
        description="List every backend registered in the entry-point group alignkit.backends.",
    )
    backends.set_defaults(run=_backends)
    atoms = commands.add_parser(
        "atoms",
        help="list the atoms and affine operations of the modelling language",
        description="List every atom and affine operation, with its curvature for affine arguments and its formula.",
    )
    atoms.set_defaults(run=_atoms)
    return parser


def _demo(options: argparse.Namespace) -> None:
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


def _backends(options: argparse.Namespace) -> None:
    for status in ak.installed_backends():
        mark = "available" if status.available else "unavailable"
        print(f"{status.name:<12} {mark:<12} {status.reason}  [{status.distribution}]")


def _atoms(options: argparse.Namespace) -> None:
    for row in ENTRIES:
        print(f"{row.name:<20} {row.kind:<8} {row.formula}")
