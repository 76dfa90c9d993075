"""Figures as SVG inside a page, in the page's own colours and type, so that they follow it into the dark."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

from alignkit.report.style import AFTER, BEFORE, HIGHLIGHT, INK, QUIET, RULE

__all__ = ["VARIABLES", "inline_svg"]

#: From a colour of figures to the variable of the page's style sheet that stands for it.
VARIABLES = {
    BEFORE: "--before",
    AFTER: "--after",
    HIGHLIGHT: "--highlight",
    INK: "--ink",
    QUIET: "--quiet",
    RULE: "--rule",
}
_IDENTIFIER = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:href="|url\()#([^")]*)')

#: A number to more places than anyone sees: a hundredth of a point is enough.
_LONG = re.compile(r"(?<=[\s\"(,MLCQ-])(\d+\.\d\d)\d+")
#: The page has its own type.
_FAMILY = re.compile(r'font-family: [^;"]*;? ?')
#: Marks of one style in a group of their own.
_MARKS = re.compile(r'<g([^>]*)>(\s*(?:<use [^>]*style="([^"]*)"/>\s*)(?:<use [^>]*style="\3"/>\s*)+)</g>')


def inline_svg(figure: Any, name: str, label: str) -> str:
    """A figure as an `<svg>` element that is as wide as what it stands in.

    Arguments:
        figure: of matplotlib.
        name: of its own on the page.
        label: what it shows, for those who do not see it.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    # Text stays text, in the page's type; the salt keeps the names of clipping paths apart.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A rule for every element would reach the whole page.
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = _renamed(text, name)
    text = _FAMILY.sub("", _LONG.sub(r"\1", text))
    text = _MARKS.sub(_with_style_once, text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head, rest = text.split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    opening = f'<svg {box} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{escape(label)}">'
    return opening + re.sub(r">\s+<", "><", rest).strip()


def _with_style_once(found: re.Match[str]) -> str:
    marks = found[2].replace(f' style="{found[3]}"', "")
    return f'<g{found[1]}><g style="{found[3]}">{marks}</g></g>'


def _renamed(text: str, name: str) -> str:
    """Names that nothing refers to left out, the others made the figure's own."""
    wanted = set(_REFERENCE.findall(text))

    def kept(found: re.Match[str]) -> str:
        return f' id="{name}-{found[1]}"' if found[1] in wanted else ""

    text = _IDENTIFIER.sub(kept, text)
    return _REFERENCE.sub(lambda found: found[0].replace(f"#{found[1]}", f"#{name}-{found[1]}"), text)
