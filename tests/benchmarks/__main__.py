"""Run every benchmark: `python -m tests.benchmarks`, or some: `python -m tests.benchmarks mixture import_time`.

Each module prints its table and says whether its bars hold; the exit code is 1 when one does not.
"""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = (
    "import_time",
    "composition",
    "compile",
    "transport",
    "prox",
    "agreement",
    "search",
    "mixture",
    "cover",
    "kl_exact",
    "kl_calibration",
    "digits",
    "rank_eight",
    "moments",
    "diffusers_laws",
    "tilted_pipeline",
    "digits_pipeline",
)


def main(names: list[str]) -> int:
    held = {}
    for name in names or BENCHMARKS:
        print(f"══ {name} ══", flush=True)
        held[name] = importlib.import_module(f"tests.benchmarks.{name}").run()
        print(flush=True)
    for name, fine in held.items():
        print(f"{name:<12} {'bars hold' if fine else 'A BAR IS MISSED'}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
