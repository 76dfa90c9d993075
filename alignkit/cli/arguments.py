"""What several commands take: files with problems and results, numbers that JSON knows."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import math
import runpy
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.errors import AlignkitError, ParameterError
from alignkit.problem import Problem

__all__ = ["add_command", "is_problem_file", "json_text", "print_json", "problem_in"]

#: Of paragraphs in help; examples stand as they are typed.
_WIDTH = 79
_DECLARATION = (
    "Set it: problem = ak.Problem(reward, base, ak.KL(weight=1.0)).",
    "Or define a function problem() that returns it.",
)


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command whose help ends with an example.

    Arguments:
        commands: what `add_subparsers` gave.
        name: of the command.
        run: does it, and returns the exit code.
        summary: in the list of commands.
        description: in its own help.
        example: lines as they are typed.
    """
    lines = "\n".join(f"  {line}" for line in example.splitlines())
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, _WIDTH),
        epilog=f"example:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def is_problem_file(path: Path) -> bool:
    """Whether a file holds a problem in Python, rather than a saved result."""
    return path.suffix == ".py"


def problem_in(path: Path, name: str = "problem") -> Problem:
    """The problem that a file of Python declares; the file is run.

    Arguments:
        path: of the file.
        name: of the problem in it, or of a function without arguments that returns it.

    Raises:
        ParameterError: there is none, or the file fails; the message says in which line.
        OSError: it cannot be read.
    """
    # For the message of the system, which is better than runpy's.
    with path.open("rb"):
        pass
    sys.path.insert(0, str(path.resolve().parent))
    try:
        found = runpy.run_path(str(path), run_name="alignkit_problem").get(name)
        if found is None:
            raise ParameterError(f"{path} sets no {name!r}.", ways_out=_DECLARATION)
        if callable(found):
            found = found()
    except AlignkitError:
        raise
    # The file is somebody's program, and may raise anything.
    except (Exception, SystemExit) as error:
        raise ParameterError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(found, Problem):
        raise ParameterError(
            f"{name!r} in {path} is no ak.Problem, but of type {type(found).__name__}.", ways_out=_DECLARATION
        )
    return found


def _place(path: Path, error: BaseException) -> str:
    """The last line of the file that an error went through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def print_json(found: Any) -> None:
    """Print what programs read."""
    print(json_text(found))


def json_text(found: Any) -> str:
    """Dataclasses, arrays and numbers in JSON, over several lines."""
    return json.dumps(_simple(found), ensure_ascii=False, indent=2)


def _simple(found: Any) -> Any:
    """Dataclasses, arrays and numbers as JSON knows them; infinities and NaN as strings."""
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {field.name: _simple(getattr(found, field.name)) for field in dataclasses.fields(found)}
    if isinstance(found, dict):
        return {str(name): _simple(one) for name, one in found.items()}
    if isinstance(found, list | tuple):
        return [_simple(one) for one in found]
    if isinstance(found, np.ndarray | np.generic):
        return _simple(found.tolist())
    if isinstance(found, enum.Enum):
        return found.name
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    return str(found) if isinstance(found, Path) else found
