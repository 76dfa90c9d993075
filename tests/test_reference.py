"""The API reference that `make docs` writes lists every public name, with what its docstring says."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import alignkit as ak
import alignkit.certificates
import alignkit.contracts
import alignkit.estimates
import alignkit.expressions
import alignkit.noise
import alignkit.registry
import alignkit.report.plots
import alignkit.testing
from alignkit.expressions import ENTRIES

pytestmark = pytest.mark.skipif(find_spec("pdoc") is None, reason="pdoc is not installed: pip install 'alignkit[docs]'")

TUTORIALS = Path(__file__).parents[1] / "tutorials"
SCRIPT = TUTORIALS / "reference.py"
MODULES = (
    ak,
    ak.base,
    ak.costs,
    ak.errors,
    alignkit.certificates,
    alignkit.estimates,
    alignkit.report.plots,
    alignkit.expressions,
    alignkit.contracts,
    alignkit.registry,
    alignkit.noise,
    alignkit.testing,
)


class Page(HTMLParser):
    """The anchors of a page, the text of the docstring below each, and what else it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.docstrings: dict[str, str] = {}
        self.fetched: list[str] = []
        self._anchor = ""
        self._depth = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag in {"script", "img", "link", "iframe"}:
            self.fetched += [address for key in ("src", "href") if (address := found.get(key))]
        if tag == "div" and (self._depth or found.get("class") == "docstring"):
            self._depth += 1
        # Headings inside a docstring have anchors of their own.
        anchor = found.get("id")
        if anchor and not self._depth:
            self._anchor = anchor
            self.anchors.add(anchor)

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._depth:
            self._depth -= 1

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.docstrings[self._anchor] = self.docstrings.get(self._anchor, "") + data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Another process: the script completes alignkit's own __all__.
    target = tmp_path_factory.mktemp("reference")
    subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(target)], check=True, capture_output=True, text=True
    )
    return target


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Page]:
    return {
        module.__name__: Page((folder / f"{module.__name__.replace('.', '/')}.html").read_text(encoding="utf-8"))
        for module in MODULES
    }


def public() -> Iterator[tuple[str, str, Any]]:
    """Each public name, with its module, and each method and property that a public class adds."""
    names = {(module.__name__, name): getattr(module, name) for module in MODULES for name in module.__all__}
    # What a user writes stands on the page of `ak`.
    names = {one: value for one, value in names.items() if one[0] != "alignkit.expressions" or not hasattr(ak, one[1])}
    names |= {("alignkit", row.name): row.function for row in ENTRIES if row.function}
    for (module, name), value in names.items():
        if inspect.ismodule(value):
            assert value in MODULES, f"{module}.{name} has no page"
            continue
        yield module, name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    yield module, f"{name}.{attribute}", member


def first_words(value: Any) -> str:
    """The beginning of a docstring, without what Markdown takes out of it."""
    line = (inspect.getdoc(value) or "").split("\n")[0]
    return bare(re.split(r"[`*_\\]", line)[0])


def bare(text: str) -> str:
    return re.sub(r"\W+", "", text)


def test_every_public_name_is_listed(pages: dict[str, Page]) -> None:
    missing = [f"{module}.{name}" for module, name, _ in public() if name not in pages[module].anchors]
    assert missing == []


def test_each_has_its_docstring(pages: dict[str, Page]) -> None:
    shown = {
        f"{module}.{name}": first_words(value) in bare(pages[module].docstrings.get(name, ""))
        for module, name, value in public()
        if (inspect.isclass(value) or callable(value) or isinstance(value, property)) and first_words(value)
    }
    assert len(shown) > 300
    assert [name for name, found in shown.items() if not found] == []


def test_the_names_that_shadow_builtins_are_there(pages: dict[str, Page]) -> None:
    assert {"abs", "max", "min", "sum"} <= pages["alignkit"].anchors


def test_every_page_is_reached_from_the_first(folder: Path) -> None:
    assert "alignkit.html" in (folder / "index.html").read_text(encoding="utf-8")
    first = (folder / "alignkit.html").read_text(encoding="utf-8")
    for module in MODULES[1:]:
        assert f'href="{module.__name__.replace(".", "/")}.html' in first, module.__name__


def test_nothing_is_fetched_from_a_network(pages: dict[str, Page]) -> None:
    assert [address for page in pages.values() for address in page.fetched if re.match("https?:|//", address)] == []


@pytest.mark.parametrize("guide", sorted([*TUTORIALS.glob("*.md"), *TUTORIALS.glob("*.py")]), ids=lambda one: one.name)
def test_the_guides_import_what_has_a_page(guide: Path) -> None:
    public = {module.__name__: module.__all__ for module in MODULES}
    imports = re.findall(r"\bfrom (alignkit(?:\.\w+)*) import ([\w, ]+)", guide.read_text(encoding="utf-8"))
    found = [(module, name) for module, names in imports for name in names.split(", ")]
    assert [f"{module}.{name}" for module, name in found if name.strip() not in public.get(module, ())] == []
