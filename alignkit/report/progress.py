"""What is told while work goes on: a line for each stage on a terminal or in a notebook, and an account of their times.

Lines are for whoever waits, and vanish. The account goes to the logger `alignkit`, plans at DEBUG and times at INFO; it
is printed where `verbose=True` asks for it.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from alignkit.compiler.phrases import seconds
from alignkit.contracts import Progress

__all__ = ["Narrator", "progress_lines"]

_DELAY_SECONDS = 1.0
#: Stages that took less are not told of.
_BRIEF_SECONDS = 0.05

_LOG = logging.getLogger("alignkit")


class Narrator:
    """Tells what happens, when it happens, and how long it took.

    Arguments:
        verbose: whether it is printed, too.
    """

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self._start = time.perf_counter()

    @property
    def is_heard(self) -> bool:
        """Whether anything becomes of what is said of times."""
        return self.verbose or _LOG.isEnabledFor(logging.INFO)

    def say(self, text: object, level: int = logging.INFO) -> None:
        """Tell something, put into words where somebody listens."""
        _LOG.log(level, "%s", text)
        if self.verbose:
            print(text, flush=True)

    def say_time(self, what: str) -> None:
        """Tell how long it has been since the start."""
        self.say(f"{what} in {seconds(time.perf_counter() - self._start)}")


def progress_lines(shown: bool | None, narrator: Narrator | None = None) -> AbstractContextManager[Progress]:
    """A callback `(stage, done, total)` that draws one tqdm line per stage, with its rate and the time that is left.

    Arguments:
        shown: True always, False never, None on a terminal or in a notebook.
        narrator: told the time of every stage.
    """
    heard = narrator if narrator is not None and narrator.is_heard else None
    return nullcontext() if shown is False and heard is None else _Lines(shown, heard)


class _Lines:
    """One line at a time; a stage that is done when it is first heard of has none."""

    def __init__(self, shown: bool | None, narrator: Narrator | None) -> None:
        self._shown, self._narrator = shown, narrator
        self._line: Any = None
        self._stage, self._done = "", 0
        self._clock = time.perf_counter()

    def __enter__(self) -> Progress:
        return self._report

    def __exit__(self, *_: object) -> None:
        self._close()
        self._tell_time()

    def _report(self, stage: str, done: int, total: int) -> None:
        line, is_new = self._line, stage != self._stage or done < self._done
        if is_new:
            self._close()
            if stage != self._stage:
                self._tell_time()
                self._stage = stage
        self._done = done
        if line is None or is_new:
            # Whether there is a terminal takes as long to find out as a small batch takes to move.
            if done >= total or not self._is_shown():
                return
            from tqdm.auto import tqdm

            line = self._line = tqdm(total=total, desc=stage, delay=_DELAY_SECONDS, leave=False)
        line.update(done - line.n)

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _tell_time(self) -> None:
        """Tell how long the stage took that ends: what came before the first is told of with it."""
        if self._narrator is None or not self._stage:
            return
        now = time.perf_counter()
        if now - self._clock >= _BRIEF_SECONDS:
            self._narrator.say(f"  {self._stage:<12} {seconds(now - self._clock)}")
        self._clock = now

    def _is_shown(self) -> bool:
        if self._shown is None:
            self._shown = sys.stderr.isatty() or _is_notebook()
        return self._shown


def _is_notebook() -> bool:
    """Whether a Jupyter kernel runs this, found out without importing anything."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"
