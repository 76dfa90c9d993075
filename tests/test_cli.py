"""The command line, in process, with the demo run once from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import alignkit as ak
from alignkit.cli import main
from alignkit.expressions import ENTRIES
from alignkit.report.samples import sample_figure

COMMANDS = ("demo", "explain", "run", "sample", "cite", "backends", "atoms")

KL = """
import alignkit as ak

x = ak.Variable(2)
problem = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=2.0))
"""
TRANSPORT = """
import alignkit as ak

def problem():
    x = ak.Variable((8, 8))
    base = ak.base.Gaussian([[0.0] * 8] * 8, 1.0)
    return ak.Problem(-ak.norm1(x - x[:, ::-1]), base, ak.Wasserstein(weight=2.0))
"""
LATENT = """
import alignkit as ak
import numpy as np

class Latent(ak.base.Denoiser):
    def decode(self, latents):
        return np.repeat(np.repeat(latents, 8, axis=-2), 8, axis=-1)[:, :1]

law = ak.base.Gaussian(np.zeros((4, 3, 3)), 1.0)
x = ak.Variable(law.shape)
base = Latent(law.denoise, law.shape, sigma_min=0.01, sigma_max=80.0, exact=True, tail=1.0)
problem = ak.Problem(-ak.norm1(x), base, ak.Wasserstein(weight=2.0))
"""
HARD = KL.replace("ak.sum(x)", "-ak.norm1(x)")
CITED = "“The tractability landscape of diffusion alignment”, 2026, arXiv 2605.11361"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kl.py").write_text(KL)
    (tmp_path / "transport.py").write_text(TRANSPORT)
    (tmp_path / "hard.py").write_text(HARD)
    return tmp_path


def names(folder):
    return sorted(one.name for one in folder.iterdir())


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
    def test_help_is_printed_with_an_example(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert "usage: alignkit" in out
        examples = out[out.index("example") :].splitlines()[1:]
        typed = ["alignkit", *arguments[:-1]]
        assert any(line.split()[: len(typed)] == typed for line in examples)

    def test_help_lists_the_commands_and_exit_codes(self, capsys):
        with pytest.raises(SystemExit):
            main(["--help"])
        out = capsys.readouterr().out
        assert all(f"\n    {command} " in out for command in COMMANDS)
        assert "exit codes:" in out

    def test_the_problem_in_the_help_is_one(self, place, capsys):
        with pytest.raises(SystemExit):
            main(["--help"])
        out = capsys.readouterr().out
        start = out.index("  import alignkit as ak")
        lines = out[start : out.index("options:")].splitlines()
        (place / "bright.py").write_text("\n".join(line[2:] for line in lines if line.startswith("  ")))
        assert main(["explain", "bright.py"]) == 0
        assert "linear tilt" in capsys.readouterr().out

    def test_the_version_is_the_packages(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["--version"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.split() == ["alignkit", ak.__version__]

    def test_the_installed_command_is_this_one(self):
        command = Path(sys.executable).with_name("alignkit")
        done = subprocess.run([command, "backends"], capture_output=True, text=True, check=True)
        assert "exact" in done.stdout


class TestLists:
    def test_every_backend_is_listed_with_its_distribution(self, capsys):
        assert main(["backends"]) == 0
        lines = capsys.readouterr().out.splitlines()
        for status in ak.installed_backends():
            line = next(line for line in lines if line.split()[0] == status.name)
            assert status.reason in line and status.distribution in line
            assert ("unavailable" in line) is (not status.available)

    def test_programs_read_the_same(self, capsys):
        assert main(["backends", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(one["name"], one["available"]) for one in found] == [
            (status.name, status.available) for status in ak.installed_backends()
        ]
        assert main(["atoms", "--json"]) == 0
        assert {"name": "norm1", "kind": "convex"}.items() <= json.loads(capsys.readouterr().out)[
            [row.name for row in ENTRIES].index("norm1")
        ].items()


class TestExitCodes:
    @pytest.mark.parametrize(
        "arguments", [[], ["dance"], ["demo", "--seed", "x"], ["backends", "--seed", "1"], ["run"]]
    )
    def test_wrong_usage_is_two(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "usage" in capsys.readouterr().err

    def test_alignkit_errors_are_two_and_go_to_standard_error(self, tmp_path, capsys):
        assert main(["demo", "--seed", "-1", "--output", str(tmp_path / "x.png")]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("ParameterError: seed must be an integer")
        assert "Traceback" not in printed.err
        assert not (tmp_path / "x.png").exists()

    def test_a_folder_that_cannot_be_written_is_found_before_the_work(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setattr(ak.base, "digits", lambda: pytest.fail("the work began"))
        assert main(["demo", "--output", str(tmp_path / "file" / "x.png")]) == 2
        assert "file" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("x = 1", "sets no 'problem'"),
            ("problem = 3", "is no ak.Problem, but of type int"),
            ("import alignkit as ak\n\nproblem = ak.Problem(nothing)", "mistaken.py, line 3: NameError"),
            ("def problem():\n    return 1 / 0\n", "mistaken.py, line 2: ZeroDivisionError"),
            ("problem = (", "mistaken.py, line 1: SyntaxError"),
            ("import sys; sys.exit(7)", "mistaken.py, line 1: SystemExit: 7"),
            (KL.replace("weight=2.0", "weight=0"), "KL(weight=λ) needs 0 < λ"),
            (HARD, "hard in the worst case"),
        ],
    )
    def test_mistakes_in_a_problem_are_told_without_a_traceback(self, place, content, words, capsys):
        (place / "mistaken.py").write_text(content)
        assert main(["run", "mistaken.py"]) == 2
        printed = capsys.readouterr()
        assert words in printed.err and "Traceback" not in printed.err
        assert not (place / "mistaken").exists()

    def test_a_file_that_is_not_there_is_named(self, place, capsys):
        for arguments in (["run", "none.py"], ["explain", "none.py"], ["sample", "none.alignkit", "3"]):
            assert main(arguments) == 2
            assert "none" in capsys.readouterr().err

    def test_a_solve_that_falls_short_is_one_with_everything_written(self, place, monkeypatch, capsys):
        solve = ak.Problem.solve
        short = ak.errors.Status.INACCURATE
        monkeypatch.setattr(ak.Problem, "solve", lambda self, **options: replace(solve(self, **options), status=short))
        assert main(["run", "kl.py", "--no-report"]) == 1
        assert "not as well as asked for" in (place / "kl" / "certificate.txt").read_text()
        assert json.loads((place / "kl" / "certificate.json").read_text())["status"] == "INACCURATE"

    def test_stopping_leaves_nothing_behind(self, place, monkeypatch, capsys):
        monkeypatch.setattr("alignkit.cli.running.picture", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        before = names(place)
        assert main(["run", "kl.py"]) == 130
        assert names(place) == before and "Stopped" in capsys.readouterr().err


class TestExplain:
    def test_a_problem_is_explained(self, place, capsys):
        assert main(["explain", "kl.py"]) == 0
        assert capsys.readouterr().out.startswith("Problem\n")

    def test_programs_read_the_plan(self, place, capsys):
        assert main(["explain", "transport.py", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["tractable"] and found["route"] == "concave proximal transport" and found["dimension"] == 32
        assert [one["verdict"] for one in found["routes"]].count("taken") == 1
        assert found["backend"] in [one["backend"] for one in found["answers"] if one["answer"] == "chosen"]

    @pytest.mark.parametrize("file", ["kl.py", "transport.py", "hard.py"])
    def test_programs_wait_for_one_plan_as_people_do(self, place, monkeypatch, file, capsys):
        compiled, compiles = [], ak.Problem.compile
        monkeypatch.setattr(ak.Problem, "compile", lambda self: compiled.append(self) or compiles(self))
        main(["explain", file, "--json"])
        assert len(compiled) == 1

    def test_a_problem_without_a_plan_is_two_with_its_ways_out(self, place, capsys):
        assert main(["explain", "hard.py"]) == 2
        assert "IntractableError" in capsys.readouterr().out
        assert main(["explain", "hard.py", "--json"]) == 2
        found = json.loads(capsys.readouterr().out)
        assert not found["tractable"] and found["error"] == "IntractableError" and found["ways_out"]

    def test_papers_are_cited(self, place, capsys):
        assert main(["cite", "kl.py"]) == 0
        assert CITED in capsys.readouterr().out
        assert main(["cite", "kl.py", "--style", "bibtex"]) == 0
        assert capsys.readouterr().out.startswith("@")
        assert main(["cite", "kl.py", "--json"]) == 0
        assert CITED in json.loads(capsys.readouterr().out)["citations"]


class TestRunAndSample:
    FILES = ("certificate.json", "certificate.txt", "plan.txt", "report.html", "result.alignkit", "samples.npz")

    def test_a_run_leaves_all_there_is_to_know(self, place, capsys):
        assert main(["run", "kl.py", "--samples", "300", "--seed", "3"]) == 0
        printed = capsys.readouterr()
        assert printed.err == "" and "KL certificate" in printed.out and "Written to kl" in printed.out
        assert names(place / "kl") == sorted([*self.FILES, "samples.png"])
        assert not [name for name in names(place) if name.startswith(".")]
        draws = np.load(place / "kl" / "samples.npz")["samples"]
        aligned = ak.load(place / "kl" / "result.alignkit")
        assert draws.shape == (300, 2) and np.array_equal(draws, aligned.sample(300, seed=4))
        assert aligned.declared.seed == 3
        certificate = json.loads((place / "kl" / "certificate.json").read_text())
        assert certificate["certificate"]["kl"]["value"] == pytest.approx(0.25)
        assert certificate["certificate"]["ess"] == "inf" and certificate["status"] == "SOLVED"
        assert imread(place / "kl" / "samples.png").std() > 0.01
        assert (place / "kl" / "plan.txt").read_text().startswith("Problem\n")
        assert "<html" in (place / "kl" / "report.html").read_text(encoding="utf-8")

    def test_moved_draws_stand_beside_those_of_the_base(self, place, capsys):
        assert main(["run", "transport.py", "--output", "new/edits", "--samples", "20", "--no-report", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["folder"] == "new/edits" and "report.html" not in found["files"]
        arrays = np.load(place / "new" / "edits" / "samples.npz")
        x, y = arrays["base"], arrays["samples"]
        assert x.shape == y.shape == (20, 8, 8)
        # A pair counts twice in the reward, and at λ = 2 each of its two pixels moves by up to 1.
        before, after = np.abs(x - x[:, :, ::-1]), np.abs(y - y[:, :, ::-1])
        np.testing.assert_allclose(after, np.maximum(before - 2.0, 0.0), atol=1e-5)

    def test_latents_are_kept_as_they_are_and_shown_as_pictures(self, place, monkeypatch, capsys):
        shown = []

        def figure(panels):
            shown.append(panels)
            return sample_figure(panels)

        monkeypatch.setattr("alignkit.cli.running.sample_figure", figure)
        (place / "latent.py").write_text(LATENT)
        assert main(["run", "latent.py", "--samples", "20", "--no-report"]) == 0
        again = ["--problem", "latent.py", "--seed", "1", "--output", "more.png"]
        assert main(["sample", "latent/result.alignkit", "20", *again]) == 0
        arrays = np.load(place / "latent" / "samples.npz")
        assert arrays["samples"].shape == (20, 4, 3, 3)
        assert len(shown) == 2
        for panels in shown:
            for name, text in (("base", "before"), ("samples", "after")):
                pictures = np.kron(arrays[name][:16, :1], np.ones((8, 8)))
                np.testing.assert_allclose(panels[text], pictures, atol=1e-5)

    def test_a_folder_is_not_overwritten_unless_asked(self, place, capsys):
        (place / "kl").mkdir()
        (place / "kl" / "mine.txt").write_text("precious")
        assert main(["run", "kl.py", "--no-report"]) == 2
        assert "--overwrite" in capsys.readouterr().err and names(place / "kl") == ["mine.txt"]
        assert main(["run", "kl.py", "--no-report", "--overwrite"]) == 0
        assert "mine.txt" not in names(place / "kl") and "result.alignkit" in names(place / "kl")
        assert not [name for name in names(place) if name.startswith(".")]

    def test_choices_are_passed_on(self, place, capsys):
        assert main(["run", "kl.py", "--engine", "magic", "--no-report"]) == 2
        assert "magic" in capsys.readouterr().err
        assert main(["run", "kl.py", "--backend", "magic", "--no-report"]) == 2
        assert main(["run", "kl.py", "--samples", "0", "--no-report"]) == 2
        assert main(["run", "kl.py", "--tolerance", "0.1", "--no-report"]) == 2
        assert main(["run", "hard.py", "--heuristic", "--no-report", "--verbose", "--samples", "5"]) == 0
        assert "Planned: annealed Monte Carlo" in capsys.readouterr().out
        plan = (place / "hard" / "plan.txt").read_text()
        assert "annealed Monte Carlo" in plan and "IntractableError" not in plan

    def test_a_saved_result_is_drawn_from_explained_and_cited(self, place, capsys):
        assert main(["run", "kl.py", "--no-report", "--samples", "5"]) == 0
        saved = str(place / "kl" / "result.alignkit")
        capsys.readouterr()
        assert main(["sample", saved, "7", "--seed", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["shapes"] == {"samples": [7, 2]}
        draws = np.load("samples.npz")["samples"]
        assert np.array_equal(draws[:5], np.load(place / "kl" / "samples.npz")["samples"])
        assert main(["sample", saved, "7", "--seed", "1", "--output", "draws.npy"]) == 0
        assert np.array_equal(np.load("draws.npy"), draws)
        assert main(["sample", saved, "7", "--output", "draws.png"]) == 0
        assert imread("draws.png").std() > 0.01
        capsys.readouterr()
        assert main(["explain", saved]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Problem\n") and "KL certificate" in out
        assert main(["explain", saved, "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)) == {"explanation", "status", "certificate"}
        assert main(["cite", saved]) == 0
        assert CITED in capsys.readouterr().out

    def test_what_cannot_be_written_is_refused(self, place, capsys):
        assert main(["run", "kl.py", "--no-report", "--samples", "5"]) == 0
        saved = str(place / "kl" / "result.alignkit")
        assert main(["sample", saved, "7", "--output", "draws.gif"]) == 2
        assert ".npz, .npy or .png" in capsys.readouterr().err
        assert main(["sample", saved, "7", "--output", "nowhere/draws.npy"]) == 2
        assert main(["sample", saved, "0"]) == 2
        assert main(["sample", "kl.py", "7"]) == 2
        assert "not a result that alignkit saved" in capsys.readouterr().err

    def test_a_result_on_a_network_takes_the_file_that_declares_it(self, place, capsys):
        network = KL.replace(
            "ak.base.Gaussian([0.0, 0.0], 1.0)",
            "ak.base.Denoiser(ak.base.Gaussian([0.0, 0.0], 1.0).denoise, (2,), sigma_min=0.01, sigma_max=80.0, "
            "exact=True, tail=1.0)",
        )
        (place / "network.py").write_text(network)
        assert main(["run", "network.py", "--no-report", "--samples", "5"]) == 0
        saved = "network/result.alignkit"
        capsys.readouterr()
        assert main(["sample", saved, "5", "--seed", "1"]) == 2
        assert "network a file cannot hold" in capsys.readouterr().err
        assert main(["sample", saved, "5", "--seed", "1", "--problem", "network.py"]) == 0
        assert np.array_equal(np.load("samples.npz")["samples"], np.load("network/samples.npz")["samples"])


class TestDemo:
    @pytest.fixture(scope="module")
    @staticmethod
    def demo(tmp_path_factory):
        folder = tmp_path_factory.mktemp("demo")
        done = subprocess.run(
            [sys.executable, "-m", "alignkit", "demo", "--output", "new/picture.png"],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, folder

    def test_it_ends_well_and_quietly(self, demo):
        done, _ = demo
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr and "Traceback" not in done.stderr

    def test_it_prints_plans_and_certificates(self, demo):
        out = demo[0].stdout
        for words in ("KL(q‖p)", "W_c(q, p)", "KL certificate", "Wasserstein certificate", "rows unfinished  0"):
            assert words in out
        assert out.count("Problem\n") == 2 and out.count("Backends for ") == 2

    def test_it_writes_a_picture_that_is_not_blank(self, demo):
        _, folder = demo
        assert [path.name for path in folder.iterdir()] == ["new"]
        picture = imread(folder / "new" / "picture.png")[..., :3]
        assert picture.shape[0] > 200 and picture.shape[1] > 600
        # Three rows of digits, each with ink.
        thirds = np.array_split(picture, 3, axis=0)
        assert all(third.std() > 0.1 for third in thirds)


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "alignkit", "--version"], capture_output=True, text=True, check=True)
    assert ak.__version__ in done.stdout
