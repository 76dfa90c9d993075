"""Reports, checks by themselves, and the command line."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from alignkit.errors import BackendUnavailableError
from alignkit.testing import (
    Check,
    ConformanceError,
    ProxPromise,
    Verdict,
    check_prox_solver,
    check_tilt_sampler,
    prox_checks,
    prox_examples,
    tilt_checks,
)
from alignkit.testing.__main__ import main
from alignkit.testing.conformance import Breach, run_checks
from alignkit_torch.prox import TorchProxSolver

FEW = [example for example in prox_examples(rows=3) if example.name in {"norm1, k = 8", "norm2, k = 3"}]


def fails():
    raise Breach("the number was 3", number=3)


def crashes():
    return 1 / 0


def skips():
    return "it is too long"


def keeps():
    return None


def check_of(examine, example="a", promise=ProxPromise.BOUND):
    return Check(promise, example, examine)


def test_a_check_says_what_it_found():
    assert check_of(keeps)().verdict is Verdict.KEPT
    outcome = check_of(skips)()
    assert outcome.verdict is Verdict.SKIPPED and outcome.note == "it is too long"
    with pytest.raises(ConformanceError, match=r"\[bound\].*on 'a': the number was 3") as caught:
        check_of(fails)()
    assert caught.value.numbers == {"number": 3} and caught.value.promise is ProxPromise.BOUND
    with pytest.raises(ConformanceError, match="ZeroDivisionError: division by zero") as caught:
        check_of(crashes)()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_report_counts_and_raises():
    checks = [check_of(keeps), check_of(fails, "b"), check_of(crashes, "c"), check_of(skips, "d", ProxPromise.BIDS)]
    report = run_checks("solver mine", checks)
    assert not report.conforms and [error.example for error in report.broken] == ["b", "c"]
    assert report.refused == {"d": "it is too long"}
    text = str(report)
    assert text.startswith("solver mine: 2 of 4 checks broken")
    assert "1 kept, 2 broken" in text and "refused 'd': it is too long" in text
    assert "the number was 3" in text and "and on 1 more: 'c'" in text
    with pytest.raises(ConformanceError, match="the number was 3"):
        report.raise_broken()
    fine = run_checks("solver mine", checks[:1])
    assert fine.conforms and str(fine).startswith("solver mine: conforms")
    fine.raise_broken()


@pytest.mark.parametrize("solver", ["torch", TorchProxSolver, TorchProxSolver(), functools.partial(TorchProxSolver)])
def test_a_solver_is_given_by_name_class_maker_or_itself(solver):
    report = check_prox_solver(solver, examples=FEW)
    assert report.conforms and set(report.refused) == {"norm2, k = 3"}
    assert sum(outcome.verdict is Verdict.KEPT for outcome in report.outcomes) >= 13


def test_names_that_offer_nothing_of_the_kind():
    with pytest.raises(BackendUnavailableError, match="no prox solver"):
        check_prox_solver("exact")
    with pytest.raises(BackendUnavailableError, match="no tilt sampler"):
        check_tilt_sampler("cvxpy")


def test_collecting_checks_asks_nothing_of_a_backend():
    def never():
        raise AssertionError("made")

    checks = [*prox_checks(never), *tilt_checks(never)]
    assert len(checks) > 500
    for part in (prox_checks(never), tilt_checks(never)):
        names = [str(check) for check in part]
        assert len(set(names)) == len(names) and "useful" in names
    assert "bound[norm1, k = 8]" in {str(check) for check in checks}
    with pytest.raises(ConformanceError, match="made"):
        checks[0]()


def test_the_command_line_prints_what_applies(capsys):
    assert main(["exact"]) == 0
    out = capsys.readouterr().out
    assert "manifest exact: conforms" in out and "tilt sampler exact: conforms" in out and "prox solver" not in out
    assert main(["no such backend"]) == 1
    assert "no installed distribution has an entry point" in capsys.readouterr().out


def test_collecting_checks_imports_no_engine_and_no_pytest():
    code = (
        "import sys, alignkit.testing as t\n"
        "t.prox_checks('torch'), t.tilt_checks('torch'), t.manifest_checks('torch')\n"
        "print([name for name in ('torch', 'jax', 'cvxpy', 'pyomo', 'pytest') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_alignkit_itself_does_not_import_the_suite():
    code = "import sys, alignkit; print('alignkit.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
