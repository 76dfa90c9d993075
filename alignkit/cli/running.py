"""`alignkit run`: solve a problem, and leave all there is to know of it in a folder."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.aligned import Aligned
from alignkit.base.law import BaseLaw, checked_count
from alignkit.cli.arguments import add_command, json_text, print_json, problem_in
from alignkit.compiler.explain import explain_solved
from alignkit.errors import ParameterError, Status
from alignkit.report.samples import sample_figure, shown_at_once
from alignkit.report.study import as_seen
from alignkit.transport.fitted import FittedTransport

__all__ = ["add_to", "drawn", "picture"]

_FINE = (Status.SOLVED, Status.RADIUS_INACTIVE)


def add_to(commands: Any) -> None:
    """Add the command."""
    run = add_command(
        commands,
        "run",
        _run,
        summary="solve a problem; write draws, a picture, the certificate and a report to a folder",
        description="Solve the problem that a file of Python sets, and write to a folder: samples.npz (`samples`, and "
        "under Wasserstein closeness `base`, the draws that were moved), samples.png, certificate.json and "
        "certificate.txt, plan.txt, report.html, and result.alignkit, from which `alignkit sample` and ak.load draw "
        "more. The folder appears when all of it is written, and not before.",
        example="alignkit run bright.py --output bright --samples 2000 --seed 1\n"
        "alignkit run bright.py --json | jq .certificate.kl",
    )
    run.add_argument("file", type=Path, help="a file of Python that sets `problem`, or defines problem()")
    run.add_argument("--output", type=Path, help="the folder to write; named like the file if not given")
    run.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    run.add_argument("--samples", type=int, default=1000, metavar="N", help="how many draws (%(default)s)")
    run.add_argument("--seed", type=int, default=0, help="fixes the fit; that of the draws is one more (%(default)s)")
    run.add_argument("--name", default="problem", help="what the problem is called in the file (%(default)s)")
    run.add_argument("--backend", default="auto", help="a backend to insist on (%(default)s)")
    run.add_argument("--engine", default="auto", help="under KL: auto, direct or annealed (%(default)s)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, … (%(default)s)")
    run.add_argument("--tolerance", type=float, help="the largest relative gap wanted, under Wasserstein closeness")
    run.add_argument("--heuristic", action="store_true", help="allow annealed Monte Carlo, without a bound, under KL")
    run.add_argument("--no-report", dest="report", action="store_false", help="leave the report out")
    add_loudness(run)


def add_loudness(command: argparse.ArgumentParser) -> None:
    """Add what decides how much is told."""
    loudness = command.add_mutually_exclusive_group()
    loudness.add_argument("--verbose", action="store_true", help="print the plan, and the time of each stage")
    loudness.add_argument("--quiet", action="store_true", help="no progress lines")
    loudness.add_argument("--json", action="store_true", help="print JSON, and no progress lines")


def _run(options: argparse.Namespace) -> int:
    folder = options.output or options.file.with_suffix("")
    if folder.exists() and not options.overwrite:
        raise ParameterError(
            f"{folder} is there already.", ways_out=["--overwrite replaces it.", "--output names another folder."]
        )
    rows = checked_count(options.samples)
    problem = problem_in(options.file, options.name)
    progress = False if options.quiet or options.json else None
    aligned = problem.solve(
        seed=options.seed,
        backend=options.backend,
        engine=options.engine,
        device=options.device,
        tolerance=options.tolerance,
        heuristic=options.heuristic,
        verbose=options.verbose,
        progress=progress,
    )
    with _appearing(folder) as place:
        arrays = drawn(aligned, rows, seed=options.seed + 1, progress=progress)
        np.savez(place / "samples.npz", **arrays)
        picture(arrays, aligned.plan.base).savefig(place / "samples.png", dpi=150)
        summary = {
            "status": aligned.status.name,
            "message": str(aligned.status),
            "route": aligned.plan.route,
            "backend": aligned.plan.backend,
            "seed": options.seed,
            "samples": rows,
            "certificate": aligned.certificate,
        }
        (place / "certificate.json").write_text(f"{json_text(summary)}\n", encoding="utf-8")
        (place / "certificate.txt").write_text(f"{aligned}\n", encoding="utf-8")
        (place / "plan.txt").write_text(f"{explain_solved(aligned.plan, aligned.declared)}\n", encoding="utf-8")
        aligned.save(place / "result.alignkit")
        if options.report:
            aligned.report(place / "report.html", seed=options.seed + 1, progress=progress)
        files = sorted(one.name for one in place.iterdir())
    if options.json:
        print_json(summary | {"folder": folder, "files": files})
    else:
        print(aligned, f"Written to {folder}: {', '.join(files)}", sep="\n\n")
    return 0 if aligned.status in _FINE else 1


def drawn(aligned: Aligned, rows: int, *, seed: int, progress: bool | None) -> dict[str, Any]:
    """Draws by name: "samples", and "base" where these were moved from draws of the base law."""
    if isinstance(aligned.fitted, FittedTransport):
        base, samples = aligned.sample(rows, seed=seed, return_base=True, progress=progress)
        return {"samples": samples, "base": base}
    return {"samples": aligned.sample(rows, seed=seed, progress=progress)}


def picture(arrays: dict[str, Any], base: BaseLaw) -> Any:
    """A figure of the first of some draws, of a law's latents as pictures."""
    names = {"base": "before", "samples": "after"}
    shown = shown_at_once(base.shape)
    return sample_figure({text: as_seen(base, arrays[name][:shown]) for name, text in names.items() if name in arrays})


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes its name when all is written, and is removed where that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    waiting = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        place = waiting / "new"
        place.mkdir()
        yield place
        if folder.exists():
            folder.rename(waiting / "old")
        place.rename(folder)
    finally:
        shutil.rmtree(waiting, ignore_errors=True)
