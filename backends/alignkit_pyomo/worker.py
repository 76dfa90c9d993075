"""A process that solves tasks: `python -m alignkit_pyomo.worker`, started by `alignkit_pyomo.workers`."""

from __future__ import annotations

import os
import sys

from alignkit_pyomo.workers import work

if __name__ == "__main__":
    # A library that prints must not write among the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    work(sys.stdin.buffer, answers)
