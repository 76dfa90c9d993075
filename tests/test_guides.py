"""The guides say what the compiler does: their examples are run, and their tables held against it."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alignkit as ak

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "tutorials").glob("*.md"))]
CLOSENESS = {"KL": ak.KL(weight=2.0), "Wasserstein": ak.Wasserstein(weight=2.0)}


def read(name: str) -> str:
    return (ROOT / "tutorials" / name).read_text(encoding="utf-8")


def rows_below(name: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    below = read(name).split(f"## {heading}\n", maxsplit=1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, flags=re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[0].splitlines()[2:]]


REWARDS = rows_below("choose_a_route.md", "Which rewards")


@pytest.mark.parametrize("name", ["choose_a_route.md", "extending.md"])
def test_the_examples_print_what_they_show(name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failures, tried = doctest.testfile(str(ROOT / "tutorials" / name), False, encoding="utf-8", optionflags=flags)
    assert tried >= 10 and failures == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_leads_to_the_guides() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"](tutorials/{name})" in text for name in ("choose_a_route.md", "extending.md", "atoms.md"))


def route_or_error(reward: ak.Expression, base: ak.base.BaseLaw, closeness: Any) -> tuple[str, int | None]:
    try:
        plan = ak.Problem(reward, base, closeness).compile()
    except ak.errors.AlignkitError as error:
        return type(error).__name__, None
    return plan.route, plan.dimension


@pytest.mark.parametrize("row", REWARDS, ids=lambda row: row[0].strip("`"))
def test_each_reward_takes_the_route_that_the_table_says(row: list[str]) -> None:
    code, _, dimension, under_kl, under_wasserstein = row
    base = ak.base.Gaussian(np.zeros((8, 8)), 1.0)
    x = ak.Variable(base.shape)
    names = {"ak": ak, "x": x, "v": ak.vec(x), "B": np.random.default_rng(0).normal(size=(4, 64)) / 8}
    reward = eval(code.strip("`"), names)
    found = {name: route_or_error(reward, base, closeness) for name, closeness in CLOSENESS.items()}
    assert (found["KL"][0], found["Wasserstein"][0]) == (under_kl, under_wasserstein)
    assert {k for _, k in found.values()} - {None} <= {int(dimension)}


def test_the_table_has_a_reward_for_every_route_and_every_error_of_the_compiler() -> None:
    routes = {cell for row in REWARDS for cell in row[3:]}
    assert routes == {
        "linear tilt",
        "mixture of tilts",
        "shift",
        "concave proximal transport",
        "Lipschitz proximal transport",
        "IntractableError",
        "DimensionError",
        "ImproperTargetError",
        "UnboundedTransportError",
    }


def test_every_backend_is_described() -> None:
    made = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    described = [row[0].strip("`") for row in rows_below("choose_a_route.md", "Which backend")]
    assert sorted(described) == sorted(made["project"]["entry-points"]["alignkit.backends"])


def test_each_backend_serves_the_closeness_that_is_said() -> None:
    statuses = {status.name: status.manifest for status in ak.installed_backends()}
    for name, serves, _ in rows_below("choose_a_route.md", "Which backend"):
        manifest = statuses[name.strip("`")]
        assert manifest is not None
        offers = {"KL": manifest.tilt_sampler, "Wasserstein": manifest.prox_solver}
        found = {closeness for closeness, offer in offers.items() if offer}
        if manifest.model_importer is None:
            assert found == ({"KL", "Wasserstein"} if serves == "both" else {serves}), name


def test_every_error_that_has_a_remedy_exists() -> None:
    for name, _, _ in rows_below("choose_a_route.md", "When it is refused"):
        assert issubclass(getattr(ak.errors, name.strip("`")), ak.errors.AlignkitError)
