"""Discovery of backends: real distributions on disk, broken and working, wheel and editable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest

import alignkit as ak
from alignkit import registry
from alignkit.cli import main
from alignkit.errors import BackendRefusedError, BackendUnavailableError

ROOT = Path(__file__).parents[1]
ENGINES = ("cvxpy", "diffusers", "grid", "numba", "ott", "pyomo", "torch")
PACKAGES = {"alignkit", *(f"alignkit_{name}" for name in ENGINES)}
SHIPPED = {"cvxpy", "diffusers", "exact", "numba", "pyomo", "torch"}
BASE = ak.base.Gaussian([0.0, 0.0], 1.0)
X = ak.Variable((2,))
TILT = ak.Problem(ak.sum(X), BASE, ak.KL(weight=1.0))
PROX = ak.Problem(-ak.norm1(X), BASE, ak.Wasserstein(weight=2.0))

SAMPLER = """
    from alignkit.contracts import Bid, Guarantee
    from alignkit.registry import Manifest
    from alignkit.tilting.exact import ExactTiltSampler

    manifest = Manifest(name="another name", engines=("numpy",), tilt_sampler="MODULE:Sampler")


    class Sampler(ExactTiltSampler):
        def bid(self, program):
            return Bid("another name", "a faster closed form", Guarantee.EXACT, 0.0)
"""

SOLVER = """
    import numpy as np

    from alignkit.contracts import Bid, Guarantee, ProxSolution
    from alignkit.registry import Manifest

    manifest = Manifest(name="shrink", engines=("numpy",), prox_solver="MODULE:Solver")


    class Solver:
        def bid(self, problem):
            return Bid("shrink", "soft threshold", Guarantee.EXACT, 0.0)

        def open(self, problem):
            return Session(problem.weight)


    class Session:
        def __init__(self, weight):
            self.weight = weight

        def solve(self, points, progress=None):
            z = np.sign(points) * np.maximum(abs(points) - 1 / self.weight, 0)
            return ProxSolution(z, np.zeros(len(z)), np.zeros(len(z), dtype=bool))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a plug-in: a module and the metadata of its distribution, on sys.path for one test."""

    def add(name: str, source: str, attribute: str = "manifest") -> str:
        module = f"alignkit_plugin_{name}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source).replace("MODULE", module))
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[alignkit.backends]\n{name} = {module}:{attribute}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return module

    yield add
    for module in [name for name in sys.modules if name.startswith("alignkit_plugin_")]:
        del sys.modules[module]


def status_of(name):
    return {status.name: status for status in ak.installed_backends()}[name]


def everything_else_works():
    assert {status.name for status in ak.installed_backends() if status.available} >= SHIPPED
    assert TILT.solve(seed=0).sample(3, seed=0).shape == (3, 2)
    assert PROX.is_tractable()
    assert ak.base.Denoiser(BASE.denoise, (2,), sigma_min=0.01, sigma_max=50.0).sample(2, seed=0).shape == (2, 2)


class TestDiscovery:
    def test_shipped_backends_are_found_and_available(self):
        statuses = ak.installed_backends()
        assert [status.name for status in statuses] == sorted(status.name for status in statuses)
        assert {status.name for status in statuses if status.available} >= SHIPPED
        assert all(status.distribution == "alignkit 0.1.0" for status in statuses if status.name in SHIPPED)

    def test_reasons_say_what_is_offered(self):
        assert "tilt sampler" in status_of("exact").reason
        assert "base laws" in status_of("torch").reason

    def test_importing_alignkit_and_listing_backends_imports_no_engine(self):
        code = """
            import sys
            import alignkit
            engines = "torch jax ott cvxpy matplotlib pyomo numba diffusers safetensors sklearn".split()
            print([name for name in engines if name in sys.modules])
            alignkit.installed_backends()
            x = alignkit.Variable((2,))
            alignkit.Problem(alignkit.sum(x), alignkit.base.Gaussian([0.0, 0.0], 1.0), alignkit.KL(weight=1.0))
            print([name for name in engines if name in sys.modules])
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[:2] == ["[]", "[]"]


class TestBrokenPlugins:
    @pytest.mark.parametrize(
        ("source", "attribute", "says"),
        [
            ("raise RuntimeError('no licence')", "manifest", "raised RuntimeError: no licence"),
            ("import no_such_package_anywhere", "manifest", "raised ModuleNotFoundError"),
            ("manifest = {'name': 'x'}", "manifest", "is a dict, not an alignkit.registry.Manifest"),
            ("manifest = 3", "other", "raised AttributeError"),
            ("this is no python", "manifest", "raised SyntaxError"),
            (
                "from alignkit.registry import Manifest\nmanifest = Manifest(name='x', engines=None)",
                "manifest",
                "raised TypeError",
            ),
        ],
    )
    def test_they_are_reported_and_break_nothing(self, install, capsys, source, attribute, says):
        install("aaa_broken", source, attribute)
        status = status_of("aaa_broken")
        assert not status.available and status.manifest is None
        assert "broken" in status.reason and says in status.reason
        assert status.distribution == "alignkit_plugin_aaa_broken 1.2"
        assert main(["backends"]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("aaa_broken"))
        assert "unavailable" in line and says in line
        with pytest.raises(BackendUnavailableError, match=r"aaa_broken.*cannot be used: broken"):
            TILT.solve(seed=0, backend="aaa_broken")
        everything_else_works()

    @pytest.mark.parametrize("engine", ["no_such_engine", "no_such_package.engine"])
    def test_missing_engines_say_what_to_install(self, install, capsys, engine):
        install(
            "ghost",
            f"""
            from alignkit.registry import Manifest
            manifest = Manifest(
                name="ghost", engines=("numpy", "{engine}"), install="pip install ghost-engine",
                tilt_sampler="nowhere:Sampler", base_sampler="nowhere:sample", base_laws={{"digits": "nowhere:digits"}},
            )
            """,
        )
        status = status_of("ghost")
        assert not status.available
        assert status.reason == f"{engine} not installed: pip install ghost-engine"
        assert main(["backends"]) == 0
        assert "pip install ghost-engine" in capsys.readouterr().out
        with pytest.raises(BackendUnavailableError, match="pip install ghost-engine") as caught:
            TILT.solve(seed=0, backend="ghost")
        assert "pip install ghost-engine" in caught.value.ways_out
        assert "ghost" not in registry.offers("tilt_sampler")
        everything_else_works()

    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("", "ModuleNotFoundError: No module named 'nowhere'"),
            ("def bid(self, program): raise ZeroDivisionError('oops')", "ZeroDivisionError: oops"),
            ("def bid(self, program): return 3.0", "its bid is a float"),
            ("pass", "AttributeError"),
        ],
        ids=["import", "bid raises", "bid is no bid", "no bid"],
    )
    def test_what_breaks_only_when_used_is_a_refusal(self, install, source, says):
        path = "MODULE:Sampler" if source else "nowhere:Sampler"
        install(
            "aaa_late",
            f"""
            from alignkit.registry import Manifest
            manifest = Manifest(name="aaa_late", tilt_sampler="{path}", base_sampler="nowhere:sample")

            class Sampler:
                {source or "pass"}
            """,
        )
        assert status_of("aaa_late").available
        line = next(line for line in TILT.explain().splitlines() if line.strip().startswith("aaa_late"))
        assert "refused: broken" in line and says in line
        everything_else_works()
        with pytest.raises((BackendRefusedError, BackendUnavailableError), match="aaa_late"):
            TILT.solve(seed=0, backend="aaa_late")


class TestWorkingPlugins:
    def test_a_tilt_sampler_bids_and_solves(self, install):
        install("mine", SAMPLER)
        plan = TILT.compile()
        # Under the name it is registered by, whatever it calls itself.
        assert plan.backend == "mine"
        assert {answer.backend for answer in plan.answers} >= {"mine", "exact", "torch"}
        aligned = TILT.solve(seed=0)
        assert aligned.plan.backend == "mine"
        np.testing.assert_array_equal(aligned.sample(5, seed=1), TILT.solve(seed=0, backend="exact").sample(5, seed=1))
        assert TILT.solve(seed=0, backend="mine").certificate.reward_after.value == pytest.approx(2.0)

    def test_a_prox_solver_bids_and_solves(self, install):
        install("shrink", SOLVER)
        assert PROX.compile().backend == "shrink"
        aligned = PROX.solve(seed=0)
        before, after = aligned.sample(20, seed=1, return_base=True)
        np.testing.assert_allclose(after, np.sign(before) * np.maximum(abs(before) - 0.5, 0), atol=1e-12)
        assert aligned.certificate.gap_max < 1e-12 and aligned.certificate.rows_unfinished == 0

    def test_a_backend_that_offers_something_else_is_refused_by_name(self, install):
        install("mine", SAMPLER)
        with pytest.raises(BackendUnavailableError, match="offers tilt sampler, but no prox solver"):
            PROX.solve(seed=0, backend="mine")


class TestErrors:
    def test_unknown_backends_list_the_known(self):
        with pytest.raises(BackendUnavailableError, match=r"no backend 'zzz'; registered: .*exact.*torch") as caught:
            registry.require("zzz", "tilt_sampler")
        assert isinstance(caught.value, LookupError)

    def test_misspelt_backends_name_the_nearest(self):
        with pytest.raises(BackendUnavailableError, match="Did you mean 'torch'"):
            TILT.solve(seed=0, backend="torhc")

    def test_offers_nobody_makes(self):
        with pytest.raises(BackendUnavailableError, match="base law 'unicorns'"):
            registry.base_law("unicorns")

    def test_base_laws_of_a_missing_engine_say_what_to_install(self, install):
        install(
            "horns",
            """
            from alignkit.registry import Manifest
            manifest = Manifest(
                name="horns", engines=("no_such_engine",), install="pip install horns", base_laws={"unicorns": "a:b"}
            )
            """,
        )
        with pytest.raises(BackendUnavailableError, match="pip install horns"):
            registry.base_law("unicorns")


class TestNames:
    def test_a_plug_in_cannot_take_a_shipped_backends_place(self, install, capsys):
        install("torch", 'raise RuntimeError("must never be imported")')
        first, second = (status for status in ak.installed_backends() if status.name == "torch")
        assert first.available and first.distribution.startswith("alignkit ")
        assert not second.available and "taken by alignkit" in second.reason
        everything_else_works()
        assert main(["backends"]) == 0
        assert "taken by alignkit" in capsys.readouterr().out

    def test_a_shipped_base_law_is_the_shipped_one(self, install):
        install(
            "aaa",
            """
            from alignkit.registry import Manifest
            manifest = Manifest(name="aaa", base_laws={"digits": "MODULE:digits"})
            def digits():
                raise RuntimeError("must never be called")
            """,
        )
        assert ak.base.digits().shape == (8, 8)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("alignkit-*.whl")
    target = folder / "target"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


class TestWheel:
    def test_an_installed_wheel_finds_every_backend_and_the_weights(self, target, tmp_path):
        # -S keeps the editable install's path file from being read; site-packages is there for the engines alone.
        code = f"""
            import sys
            sys.path.append({sysconfig.get_path("purelib")!r})
            import json
            import alignkit as ak
            from importlib import import_module
            from importlib.metadata import entry_points
            print(json.dumps({{
                "files": [import_module(name).__file__ for name in {sorted(PACKAGES)!r}],
                "homes": [str(entry.dist.locate_file("")) for entry in entry_points(group="alignkit.backends")],
                "available": {{status.name: status.available for status in ak.installed_backends()}},
                "digits": ak.base.digits().sample(2, seed=0).shape,
            }}))
        """
        done = subprocess.run(
            [sys.executable, "-S", "-c", textwrap.dedent(code)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert all(Path(file).is_relative_to(target) for file in found["files"] + found["homes"])
        assert {name for name, available in found["available"].items() if available} >= SHIPPED
        assert found["digits"] == [2, 8, 8]

    def test_a_wheel_holds_the_weights_and_the_type_marker(self, target):
        assert (target / "alignkit" / "py.typed").exists()
        assert (target / "alignkit_torch" / "weights" / "digits.safetensors").stat().st_size > 1e5

    def test_a_wheel_leaves_tests_at_home(self, target):
        packages = {path.name for path in target.iterdir() if path.is_dir() and not path.name.endswith(".dist-info")}
        assert packages - {"bin"} == PACKAGES
