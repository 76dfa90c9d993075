"""The command line, in process, with the demo run once from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import alignkit as ak
from alignkit.cli import main


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["backends", "--help"]])
    def test_help_is_printed(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert "alignkit" in out and "usage" in out.lower()

    def test_help_lists_the_commands(self, capsys):
        with pytest.raises(SystemExit):
            main(["--help"])
        out = capsys.readouterr().out
        assert "demo" in out and "backends" in out

    def test_the_version_is_the_packages(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["--version"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.split() == ["alignkit", ak.__version__]

    def test_the_installed_command_is_this_one(self):
        command = Path(sys.executable).with_name("alignkit")
        done = subprocess.run([command, "backends"], capture_output=True, text=True, check=True)
        assert "exact" in done.stdout


class TestBackends:
    def test_every_backend_is_listed_with_its_distribution(self, capsys):
        assert main(["backends"]) == 0
        lines = capsys.readouterr().out.splitlines()
        for status in ak.installed_backends():
            line = next(line for line in lines if line.split()[0] == status.name)
            assert status.reason in line and status.distribution in line
            assert ("unavailable" in line) is (not status.available)


class TestExitCodes:
    @pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "--seed", "x"], ["backends", "--seed", "1"]])
    def test_wrong_usage_is_two(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "usage" in capsys.readouterr().err

    def test_alignkit_errors_are_one_and_go_to_standard_error(self, tmp_path, capsys):
        assert main(["demo", "--seed", "-1", "--output", str(tmp_path / "x.png")]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("ParameterError: seed must be an integer")
        assert "Traceback" not in printed.err
        assert not (tmp_path / "x.png").exists()

    def test_a_folder_that_cannot_be_written_is_found_before_the_work(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setattr(ak.base, "digits", lambda: pytest.fail("the work began"))
        assert main(["demo", "--output", str(tmp_path / "file" / "x.png")]) == 1
        assert "file" in capsys.readouterr().err


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
