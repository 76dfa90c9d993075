"""Every tutorial runs as printed, quietly, and ends with a certificate and a picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tutorial_cells import code_cells, prose

FOLDER = Path(__file__).parents[1] / "tutorials"
RUNNER = Path(__file__).with_name("tutorial_cells.py")
TUTORIALS = {path.stem: path for path in sorted(FOLDER.glob("[0-9][0-9]_*.py"))}
FAST = {"ALIGNKIT_FAST": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

#: What the messages of a tutorial on errors have to say; that they are raised it insists on itself.
SAID = {
    "02_what_is_tractable": [
        "ShapeError: @ does not fit: [4×64 constant] has shape (4, 64), x has shape (8, 8).",
        "  - B @ vec(x) for a map of the whole variable",
        "IntractableError: KL alignment of a reward that is concave is hard in the worst case, even in one dimension",
        "  - ak.Wasserstein(weight=1) in place of KL.",
        "UnboundedTransportError: The reward outgrows λ times the cost, so the transport map has no maximiser",
        "  - ak.Wasserstein(weight=λ) with λ > 2.",
        "ImproperTargetError: E_p exp(r/λ) is infinite, so the aligned law does not exist",
        "  - ak.KL(weight=λ) with λ > 2.",
        "BackendRefusedError: No backend takes the route 'concave proximal transport': torch:",
        "  - Use backend='auto'.",
        "BackendUnavailableError: There is no backend 'gurobi'",
    ]
}


def printed(path: Path, folder: Path) -> str:
    """What a tutorial prints, in a process of its own and far from the repository."""
    command = [sys.executable, "-X", "utf8", str(RUNNER), str(path)]
    environment = os.environ | FAST
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Warning" not in done.stderr, done.stderr[-4000:]
    return done.stdout


def figures_stated(script: str) -> set[str]:
    """Decimals and percentages in the prose."""
    return set(re.findall(r"\d+\.\d+|\d+\s?%", re.sub(r"arXiv[\s#]+[\d.]+", "", prose(script))))


def test_there_are_some():
    assert len(TUTORIALS) >= 3


@pytest.mark.parametrize("name", TUTORIALS)
def test_it_runs_and_ends_with_a_certificate_and_a_picture(name, tmp_path):
    output = printed(TUTORIALS[name], tmp_path)
    assert re.search(r"^(KL|Wasserstein) certificate$", output, re.MULTILINE)
    assert output.endswith("last is a figure: True\n")
    script = TUTORIALS[name].read_text(encoding="utf-8")
    computed = "\n".join(code_cells(script)) + output
    assert {figure for figure in figures_stated(script) if figure not in computed} == set()
    assert [line for line in SAID.get(name, []) if line not in output] == []


@pytest.mark.parametrize("name", TUTORIALS)
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)#]+)\)", prose(TUTORIALS[name].read_text(encoding="utf-8")))
    assert {target for target in targets if "://" not in target and not (FOLDER / target).exists()} == set()


class TestCells:
    SCRIPT = "# %% [markdown]\n# It is 0.5, so 7 %.\n\n# %%\na = 1\n\n# %% [markdown]\n# arXiv\n# 2605.1\n# %%\na\n"

    def test_code_keeps_its_lines(self):
        first, second = code_cells(self.SCRIPT)
        assert first.split("\n")[4] == "a = 1" and second.split("\n")[10] == "a"

    def test_figures_are_those_of_the_prose(self):
        assert figures_stated(self.SCRIPT) == {"0.5", "7 %"}
