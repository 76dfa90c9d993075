"""`alignkit sample`: draws from a saved result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.base.law import BaseLaw
from alignkit.cli.arguments import add_command, print_json, problem_in
from alignkit.cli.running import add_loudness, drawn, picture
from alignkit.errors import ParameterError
from alignkit.loading import load
from alignkit.saving.whole import whole_file

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command."""
    sample = add_command(
        commands,
        "sample",
        _sample,
        summary="draw from a saved result, without solving again",
        description="Draw from a result that `alignkit run` or aligned.save wrote. The draws go to a file by its "
        "ending: .npz (`samples`, and under Wasserstein closeness `base`), .npy (the samples alone) or .png. A result "
        "on a network of your own needs the file that declares its problem.",
        example="alignkit sample bright/result.alignkit 5000 --seed 7 --output more.npz\n"
        "alignkit sample mine.alignkit 16 --problem mine.py --output mine.png",
    )
    sample.add_argument("file", type=Path, help="the saved result")
    sample.add_argument("rows", type=int, metavar="n", help="how many draws")
    sample.add_argument(
        "--seed", type=int, default=0, help="fixes the draws; draw i does not depend on n (%(default)s)"
    )
    sample.add_argument("--output", type=Path, default=Path("samples.npz"), help="the file to write (%(default)s)")
    sample.add_argument("--problem", type=Path, help="a file of Python that declares the problem that was solved")
    add_loudness(sample)


def _sample(options: argparse.Namespace) -> int:
    ending = options.output.suffix
    if ending not in {".npz", ".npy", ".png"}:
        raise ParameterError(
            f"--output={options.output} ends in {ending or 'nothing'!r}.", ways_out=["End it in .npz, .npy or .png."]
        )
    problem = None if options.problem is None else problem_in(options.problem)
    progress = False if options.quiet or options.json else None
    aligned = load(options.file, problem=problem)
    if options.verbose:
        print(aligned.plan)
    arrays = drawn(aligned, options.rows, seed=options.seed, progress=progress)
    _write(options.output, arrays, aligned.plan.base)
    if options.json:
        shapes = {name: found.shape for name, found in arrays.items()}
        print_json({"output": options.output, "shapes": shapes, "seed": options.seed, "status": aligned.status})
    else:
        print(f"{options.rows} draws of shape {arrays['samples'].shape[1:]}: {options.output}")
    return 0


def _write(path: Path, arrays: dict[str, Any], base: BaseLaw) -> None:
    """Write draws of a law, in one step."""
    with whole_file(path) as file:
        if path.suffix == ".npz":
            np.savez(file, **arrays)
        elif path.suffix == ".npy":
            np.save(file, arrays["samples"])
        else:
            picture(arrays, base).savefig(file, dpi=150, format="png")
