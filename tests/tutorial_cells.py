"""Runs a tutorial cell by cell, as a notebook would, and says how many cells ended in a figure."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_MARKER = re.compile(r"^# %%", re.MULTILINE)


def code_cells(script: str) -> list[str]:
    """The code cells of a py:percent script, each with the lines before it left empty."""
    starts = [match.start() for match in _MARKER.finditer(script)]
    cells = []
    for start, stop in zip(starts, [*starts[1:], len(script)], strict=True):
        if not script.startswith("# %% [markdown]", start):
            cells.append("\n" * script.count("\n", 0, start) + script[start:stop])
    return cells


def prose(script: str) -> str:
    """The text cells of a py:percent script."""
    cells = re.split(_MARKER, script)[1:]
    return "\n".join(cell for cell in cells if cell.startswith(" [markdown]"))


def run(path: Path) -> list[Any]:
    """The last value of every cell that has one, run in `__main__`."""
    scope = vars(sys.modules["__main__"])
    scope["__file__"] = str(path)
    values = []
    for cell in code_cells(path.read_text(encoding="utf-8")):
        body = ast.parse(cell, str(path)).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), str(path), "exec"), scope)
        if last is not None:
            values.append(eval(compile(ast.Expression(last.value), str(path), "eval"), scope))
    return values


if __name__ == "__main__":
    shown = run(Path(sys.argv[1]))
    print(f"figures: {sum(isinstance(value, Figure) for value in shown)}")
    print(f"last is a figure: {isinstance(shown[-1], Figure)}")
