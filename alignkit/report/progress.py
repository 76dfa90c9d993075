"""Progress lines on a terminal, one a stage, for anything that takes over a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alignkit.contracts import Progress

__all__ = ["progress_lines"]

_DELAY_SECONDS = 1.0


@contextmanager
def progress_lines(shown: bool | None) -> Iterator[Progress]:
    """A callback `(stage, done, total)` that draws one tqdm line per stage.

    Arguments:
        shown: True always, False never, None when standard error is a terminal.
    """
    # tqdm would find that out too, and take longer for it than a small batch takes.
    if shown is False or (shown is None and not sys.stderr.isatty()):
        yield None
        return
    from tqdm.auto import tqdm

    line: Any = None
    current = ""

    def report(stage: str, done: int, total: int) -> None:
        nonlocal line, current
        if line is None or stage != current or done < line.n:
            if line is not None:
                line.close()
            disabled = None if shown is None else False
            line, current = tqdm(total=total, desc=stage, delay=_DELAY_SECONDS, disable=disabled, leave=False), stage
        line.update(done - line.n)

    try:
        yield report
    finally:
        if line is not None:
            line.close()
