"""Progress lines: what is drawn, and that nothing is asked of the terminal before there is something to draw."""

from __future__ import annotations

import io
import sys

import pytest

from alignkit.report import progress
from alignkit.report.progress import progress_lines


class Terminal(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal, self.asked = is_terminal, 0

    def isatty(self) -> bool:
        self.asked += 1
        return self.is_terminal


@pytest.fixture(autouse=True)
def no_delay(monkeypatch):
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 0.0)


def test_no_callback_where_none_is_wanted():
    with progress_lines(False) as report:
        assert report is None


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_is_asked_for_once_there_is_something_to_wait_for(monkeypatch, is_terminal):
    stream = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_lines(None) as report:
        report("moving", 10, 10)
        assert stream.asked == 0 and not stream.getvalue()
        report("moving", 5, 10)
        report("moving", 10, 10)
        assert ("moving" in stream.getvalue()) == is_terminal


def test_each_stage_has_a_line_and_stages_may_come_again(monkeypatch):
    stream = Terminal(False)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_lines(True) as report:
        for stage in ("reading", "moving", "reading"):
            for done in (1, 2, 3):
                report(stage, done, 3)
    drawn = stream.getvalue()
    assert drawn.index("reading") < drawn.index("moving") < drawn.rindex("reading") and "0/3" in drawn
