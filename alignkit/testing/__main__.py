"""`python -m alignkit.testing NAME`: everything that can be examined of an installed backend."""

from __future__ import annotations

import argparse

from alignkit.registry import offers
from alignkit.testing import check_manifest, check_prox_solver, check_tilt_sampler


def main(arguments: list[str] | None = None) -> int:
    """Print the reports of one backend; 1 when a promise is broken, else 0."""
    parser = argparse.ArgumentParser(prog="python -m alignkit.testing", description="Examine an installed backend.")
    parser.add_argument("name", help="as `alignkit backends` lists it")
    parser.add_argument("--seed", type=int, default=0, help="fixes problems and draws")
    parser.add_argument("--device", default="auto", help="as the engine names it")
    options = parser.parse_args(arguments)
    reports = [check_manifest(options.name)]
    print(reports[-1], flush=True)
    for capability, check in (("prox_solver", check_prox_solver), ("tilt_sampler", check_tilt_sampler)):
        if options.name in offers(capability):
            reports.append(check(options.name, seed=options.seed, device=options.device))
            print(reports[-1], flush=True)
    return 0 if all(report.conforms for report in reports) else 1


if __name__ == "__main__":
    raise SystemExit(main())
