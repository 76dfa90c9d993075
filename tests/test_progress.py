"""Progress lines where somebody waits for them, and an account of stages where somebody asks for it."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import alignkit as ak
from alignkit.report import progress
from alignkit.report.progress import Narrator, progress_lines

X = ak.Variable(2)
NORMAL = ak.base.Gaussian(np.zeros(2), 1.0)


def problem():
    return ak.Problem(ak.norm1(X), NORMAL, ak.KL(weight=1.0))


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 0.0)


@pytest.fixture
def terminal(monkeypatch, at_once):
    # The stream itself is another in each phase of a test.
    stream = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream, modules=sys.modules))


def lines_of(text):
    return [line for line in re.split(r"[\r\n]", text) if line.strip()]


def work(shown, **options):
    with progress_lines(shown, **options) as report:
        if report is None:
            return
        for done in (0, 1, 2, 4):
            report("sampling", done, 4)
            time.sleep(0.06)
        report("transport", 1, 3)


class TestLines:
    def test_a_line_for_each_stage_has_rate_and_remaining_time(self, at_once, capsys):
        work(True)
        lines = lines_of(capsys.readouterr().err)
        assert any(line.startswith("sampling:") for line in lines)
        assert any(line.startswith("transport:") for line in lines)
        assert any(re.search(r"\d+/4 \[\d\d:\d\d<(\d\d:\d\d|\?), +.*(it/s|s/it|\?it/s)\]", line) for line in lines)

    def test_they_vanish(self, at_once, capsys):
        with progress_lines(True) as report:
            report("sampling", 1, 3)
        assert capsys.readouterr().err.endswith("\r")

    def test_without_a_terminal_there_are_none(self, at_once, capsys):
        work(None)
        assert capsys.readouterr().err == ""

    def test_on_a_terminal_there_are(self, terminal, capsys):
        work(None)
        assert "sampling:" in capsys.readouterr().err

    def test_none_where_they_are_not_wanted(self, terminal, capsys):
        work(False)
        assert capsys.readouterr().err == ""

    def test_in_a_notebook_there_are(self, at_once, capsys, monkeypatch):
        shell = type("ZMQInteractiveShell", (), {})()
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        work(None)
        assert "sampling:" in capsys.readouterr().err
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
        work(None)
        assert capsys.readouterr().err == ""

    def test_what_is_done_at_once_has_none(self, terminal, capsys):
        with progress_lines(True) as report:
            report("sampling", 5, 5)
        assert capsys.readouterr().err == ""

    def test_a_stage_that_begins_again_has_a_line_again(self, at_once, capsys):
        with progress_lines(True) as report:
            for _ in range(2):
                for done in (1, 2, 3):
                    report("sampling", done, 4)
        assert capsys.readouterr().err.count("  0%|") == 2

    def test_a_line_is_closed_where_work_fails(self, at_once, capsys):
        with pytest.raises(ZeroDivisionError), progress_lines(True) as report:
            report("sampling", 1, 4)
            raise ZeroDivisionError
        assert capsys.readouterr().err.endswith("\r")


class Terminal(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal, self.asked = is_terminal, 0

    def isatty(self) -> bool:
        self.asked += 1
        return self.is_terminal


class TestTerminal:
    @pytest.mark.parametrize("is_terminal", [False, True])
    def test_it_is_asked_for_once_there_is_something_to_wait_for(self, at_once, monkeypatch, is_terminal):
        stream = Terminal(is_terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_lines(None) as report:
            report("moving", 10, 10)
            assert stream.asked == 0 and not stream.getvalue()
            report("moving", 5, 10)
            report("moving", 10, 10)
            assert ("moving" in stream.getvalue()) == is_terminal

    def test_stages_may_come_again(self, at_once, monkeypatch):
        stream = Terminal(False)
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_lines(True) as report:
            for stage in ("reading", "moving", "reading"):
                for done in (1, 2, 3):
                    report(stage, done, 3)
        drawn = stream.getvalue()
        assert drawn.index("reading") < drawn.index("moving") < drawn.rindex("reading") and "0/3" in drawn

    def test_there_is_no_callback_where_none_is_wanted(self):
        with progress_lines(False) as report:
            assert report is None


class TestAccount:
    def test_it_is_printed_as_stages_end(self, capsys):
        work(False, narrator=Narrator(verbose=True))
        printed = capsys.readouterr()
        assert printed.err == ""
        assert re.fullmatch(r"  sampling     \d+ ms\n", printed.out)

    def test_it_goes_to_the_logger_and_to_nobody_else(self, capsys, caplog):
        with caplog.at_level(logging.INFO, logger="alignkit"):
            problem().solve(seed=0)
        assert capsys.readouterr().out == ""
        texts = [record.getMessage() for record in caplog.records]
        assert texts[0].startswith("Planned: mixture of tilts, backend 'exact', in ")
        assert texts[-1].startswith("Solved; the certificate says how well. Done in ")

    def test_plans_are_logged_for_those_who_look_for_errors(self, caplog):
        with caplog.at_level(logging.DEBUG, logger="alignkit"):
            problem().solve(seed=0)
        assert problem().explain() in [record.getMessage() for record in caplog.records]

    def test_verbose_prints_analysis_route_and_times(self, capsys):
        problem().solve(seed=0, verbose=True)
        out = capsys.readouterr().out
        assert out.startswith("Problem\n")
        places = [out.index(words) for words in ("curvature", "Routes", "Planned: mixture of tilts", "Done in")]
        assert places == sorted(places)

    def test_by_default_nothing_is_printed_or_logged(self):
        code = (
            "import alignkit as ak; x = ak.Variable(2); base = ak.base.Gaussian([0.0, 0.0], 1.0);"
            "ak.Problem(ak.norm1(x), base, ak.KL(weight=1.0)).solve(seed=0).sample(10, seed=1)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "" and done.stderr == ""


def network(**options):
    return ak.base.Denoiser(NORMAL.denoise, (2,), sigma_min=0.01, sigma_max=80.0, exact=True, tail=1.0, **options)


def test_lines_of_a_solve_and_of_draws(terminal, capsys):
    aligned = ak.Problem(X[0] + 0.0, network(), ak.KL(weight=1.0)).solve(seed=0, progress=False)
    assert capsys.readouterr().err == ""
    aligned.sample(64, seed=0)
    assert "sampling:" in capsys.readouterr().err
    aligned.sample(64, seed=0, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("solver", ["dpm_solver_2m", "heun", "ancestral"])
def test_one_batch_of_draws_tells_of_every_evaluation(solver):
    told = []
    draws = network(solver=solver, nfe=20).sample(64, seed=0, progress=lambda *what: told.append(what))
    assert {stage for stage, _, _ in told} == {"sampling"} and {total for _, _, total in told} == {64}
    rows = [done for _, done, _ in told]
    assert rows == sorted(rows) and rows[0] < 8 and rows[-1] == 64 and len(set(rows)) >= 19
    assert np.array_equal(network(solver=solver, nfe=20).sample(64, seed=0), draws)
