"""The command line: `alignkit demo`, `explain`, `run`, `sample`, `cite`, `backends` and `atoms`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import alignkit as ak
from alignkit.cli import demo, listing, looking, running, sampling
from alignkit.errors import AlignkitError

__all__ = ["main"]

_DESCRIPTION = """\
Align a diffusion model to a reward you declare, with a certificate of what was achieved.

A problem is declared in a file of Python that sets `problem`, say bright.py:

  import alignkit as ak
  base = ak.base.digits()
  x = ak.Variable(base.shape)
  problem = ak.Problem(8 * ak.mean(x[:4, :]), base, ak.KL(weight=2.0))
"""
_EPILOG = """\
examples:
  alignkit demo                              a first look, on the shipped model of digits
  alignkit explain bright.py                 is it tractable, by which route, and what else there is
  alignkit run bright.py --output bright     solve it; draws, certificate and report go to the folder bright
  alignkit sample bright/result.alignkit 64  more draws, without solving again

exit codes:
  0  fine
  1  solved, but not as well as asked for: the certificate says how well
  2  a mistake in the command, in the problem or in a file; the message says what mends it
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        arguments: what follows the program's name; those of the process if None.

    Returns:
        the exit code: 0; 1 after a solve that fell short of what was asked; 2 after an alignkit or file error, whose
        message goes to standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (AlignkitError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; nothing was left behind.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alignkit",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alignkit {ak.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for module in (demo, looking, running, sampling, listing):
        module.add_to(commands)
    return parser
