"""A third party's backend as its own distribution: built, installed, discovered, bidding, solving, and certified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "alignkit-bisect"

PROBLEM = """
    import json, sys
    import numpy as np
    import alignkit as ak
    from alignkit.errors import AlignkitError

    base = ak.base.Gaussian(np.zeros(20), 1.0)
    x = ak.Variable((20,), name="x")
    feature = ak.sum(x[:4]) / 2
    reward = -ak.exp(feature)
    problem = ak.Problem(reward, base, ak.Wasserstein(weight=0.5))
    statuses = {status.name: status for status in ak.installed_backends()}
    status = statuses.get("bisect")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy, so that nothing a build leaves behind lies in the repository.
    source = shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*", "dist"))
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source))
    (built,) = folder.glob("alignkit_bisect-*.whl")
    return built


@pytest.fixture
def target(wheel, tmp_path):
    _pip("install", "--no-deps", "--no-index", "--target", str(tmp_path / "target"), str(wheel))
    return tmp_path / "target"


def _pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def python(*arguments, path=(), cwd):
    """Run another Python where the given folders are importable too."""
    search = [str(folder) for folder in path] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in search if part)},
        capture_output=True,
        text=True,
        check=False,
    )


def run(code, *, path=(), cwd):
    """What a program prints as JSON, after declaring the problem."""
    done = python("-c", textwrap.dedent(PROBLEM) + textwrap.dedent(code), path=path, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestInstalled:
    def test_it_is_found_bids_and_solves(self, target, tmp_path):
        found = run(
            """
            aligned = problem.solve(seed=0)
            before, after = aligned.sample(200, seed=1, return_base=True)
            insisted = problem.solve(seed=0, backend="bisect").sample(200, seed=1)
            other = problem.solve(seed=0, backend="cvxpy").sample(200, seed=1)
            v = before[:, :4].sum(axis=1) / 2
            z = after[:, :4].sum(axis=1) / 2
            slope = -np.exp(z)
            print(json.dumps({
                "distribution": status.distribution, "available": status.available, "offers": status.reason,
                "explained": problem.explain(), "chosen": aligned.plan.backend,
                "promised": aligned.plan.bid.guarantee.name, "gap": aligned.certificate.gap_max,
                "unfinished": aligned.certificate.rows_unfinished,
                "stationary": float(abs(slope - 0.5 * (z - v)).max()), "moved": float(abs(z - v).max()),
                "elsewhere": float(abs((after - before)[:, 4:]).max()),
                "insisted": float(abs(insisted - after).max()), "other": float(abs(other - after).max()),
                "home": sys.modules["alignkit_bisect.prox"].__file__,
            }))
            """,
            path=[target],
            cwd=tmp_path,
        )
        assert (
            found["distribution"] == "alignkit-bisect 1.0" and found["available"] and found["offers"] == "prox solver"
        )
        line = next(line for line in found["explained"].splitlines() if line.strip().startswith("bisect"))
        assert "chosen" in line and "bracketing by tangents" in line and "certified" in line
        assert found["chosen"] == "bisect" and found["promised"] == "CERTIFIED"
        assert Path(found["home"]).is_relative_to(target)
        assert found["gap"] <= 1e-6 and found["unfinished"] == 0
        # A point whose objective lacks ε has a gradient of √(2ε(L + λ)) at most, with L = eᶻ < 3 there.
        assert found["stationary"] < (2 * 1e-6 * 3.0 * (3.0 + 0.5)) ** 0.5 and found["moved"] > 1.0
        assert found["elsewhere"] < 1e-12
        assert found["insisted"] == 0.0 and found["other"] < 0.01

    def test_what_it_does_not_take_goes_to_others(self, target, tmp_path):
        found = run(
            """
            wide = ak.Problem(-ak.norm1(x), base, ak.Wasserstein(weight=0.5))
            curved = ak.Problem(ak.log(ak.sum(x[:2])), base, ak.Wasserstein(weight=0.5))
            try:
                wide.solve(seed=0, backend="bisect")
                message = ""
            except AlignkitError as error:
                message = str(error)
            print(json.dumps({
                "wide": wide.explain(), "chosen": wide.compile().backend, "message": message,
                "curved": curved.explain(),
            }))
            """,
            path=[target],
            cwd=tmp_path,
        )
        assert "refused: k = 20, and it takes rewards of one feature alone" in found["wide"]
        assert found["chosen"] == "numba" and "k = 20, and it takes rewards of one feature alone" in found["message"]
        assert "refused: not finite everywhere" in found["curved"]

    def test_its_own_tests_pass(self, target, tmp_path):
        tests = shutil.copytree(SOURCE / "tests", tmp_path / "tests")
        done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), path=[target], cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "passed" in done.stdout and "skipped" not in done.stdout

    def test_the_command_line_examines_it(self, target, tmp_path):
        done = python("-m", "alignkit.testing", "bisect", path=[target], cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "manifest bisect: conforms" in done.stdout and "prox solver bisect: conforms" in done.stdout

    def test_the_example_of_its_readme_runs(self, target, tmp_path):
        _, _, rest = (SOURCE / "README.md").read_text().partition("```python\n")
        example, _, _ = rest.partition("```")
        done = python("-c", example, path=[target], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.strip().startswith("bisect"))
        assert "chosen" in line


class TestAbsentOrBroken:
    """The rest works on, and the messages say what is wrong."""

    WITHOUT = """
        try:
            problem.solve(seed=0, backend="bisect")
            error, message = "none", ""
        except AlignkitError as caught:
            error, message = type(caught).__name__, str(caught)
        print(json.dumps({
            "listed": status is not None, "available": status is not None and status.available,
            "reason": "" if status is None else status.reason, "error": error, "message": message,
            "explained": problem.explain(), "chosen": problem.solve(seed=0).plan.backend,
        }))
    """

    def test_not_installed(self, tmp_path):
        found = run(self.WITHOUT, cwd=tmp_path)
        assert not found["listed"] and found["chosen"] == "cvxpy" and "bisect" not in found["explained"]
        assert found["error"] == "BackendUnavailableError" and "no backend 'bisect'" in found["message"]

    def test_its_manifest_does_not_load(self, target, tmp_path):
        (target / "alignkit_bisect" / "__init__.py").write_text("raise OSError('disk on fire')")
        found = run(self.WITHOUT, path=[target], cwd=tmp_path)
        assert found["listed"] and not found["available"] and "disk on fire" in found["reason"]
        assert found["error"] == "BackendUnavailableError" and "disk on fire" in found["message"]
        assert found["chosen"] == "cvxpy"

    def test_its_engine_is_missing(self, target, tmp_path):
        manifest = target / "alignkit_bisect" / "__init__.py"
        manifest.write_text(manifest.read_text().replace('("numpy",)', '("numpy", "no_such_engine")'))
        found = run(self.WITHOUT, path=[target], cwd=tmp_path)
        assert found["listed"] and not found["available"]
        assert found["reason"] == "no_such_engine not installed: pip install alignkit-bisect"
        assert found["error"] == "BackendUnavailableError" and "pip install alignkit-bisect" in found["message"]
        assert found["chosen"] == "cvxpy"

    def test_its_solver_does_not_load(self, target, tmp_path):
        (target / "alignkit_bisect" / "prox.py").write_text("import no_such_package")
        found = run(self.WITHOUT, path=[target], cwd=tmp_path)
        assert found["available"] and "no_such_package" in found["explained"]
        assert found["error"] == "BackendUnavailableError" and "no_such_package" in found["message"]
        assert found["chosen"] == "cvxpy"

    def test_the_suite_says_so_too(self, target, tmp_path):
        (target / "alignkit_bisect" / "prox.py").write_text("import no_such_package")
        done = python("-m", "alignkit.testing", "bisect", path=[target], cwd=tmp_path)
        assert done.returncode == 1
        assert "[paths] Promised" in done.stdout and "no_such_package" in done.stdout
