"""Progress lines on a terminal, one a stage, for anything that takes over a second."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from alignkit.contracts import Progress

__all__ = ["progress_lines"]

_DELAY_SECONDS = 1.0


def progress_lines(shown: bool | None) -> AbstractContextManager[Progress]:
    """A callback `(stage, done, total)` that draws one tqdm line per stage.

    Arguments:
        shown: True always, False never, None when standard error is a terminal.
    """
    return nullcontext() if shown is False else _Lines(shown)


class _Lines:
    """One line at a time; a stage that is done when it is first heard of has none."""

    def __init__(self, shown: bool | None) -> None:
        self._shown = shown
        self._line: Any = None
        self._stage = ""

    def __enter__(self) -> Progress:
        return self._report

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.close()

    def _report(self, stage: str, done: int, total: int) -> None:
        line = self._line
        if line is None or stage != self._stage or done < line.n:
            if line is not None:
                line.close()
                self._line = None
            # Whether there is a terminal takes as long to find out as a small batch takes to move.
            if done >= total or not self._is_shown():
                return
            from tqdm.auto import tqdm

            line = self._line = tqdm(total=total, desc=stage, delay=_DELAY_SECONDS, leave=False)
            self._stage = stage
        line.update(done - line.n)

    def _is_shown(self) -> bool:
        if self._shown is None:
            self._shown = sys.stderr.isatty()
        return self._shown
