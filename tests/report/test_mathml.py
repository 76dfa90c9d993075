"""Formulas in pages: well-formed, complete, and read as another reader of LaTeX reads them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from latex2mathml.converter import convert

import alignkit as ak
from alignkit.expressions.latex import latex_name
from alignkit.report.mathml import mathml
from tests.expressions.test_latex import WRITTEN

#: As one of the two writes it, and as the other does.
SAME = str.maketrans(
    {"−": "-", "⋅": "·", "∗": "*", "ϵ": "ε", "ϕ": "φ", "\N{NO-BREAK SPACE}": None, " ": None, "′": "'"}
)


def parsed(formula):
    return ElementTree.fromstring(mathml(formula).replace("<math ", '<math xmlns:x="x" ', 1))


def shown(root):
    """The characters on the page, in order."""
    if root.tag.endswith("annotation"):
        return ""
    return "".join([(root.text or "").strip("\n"), *map(shown, root)]).translate(SAME)


def tags(root):
    return [element.tag for element in root.iter()]


class TestEveryFormula:
    @pytest.mark.parametrize("formula", WRITTEN)
    def test_nothing_is_left_unread(self, formula):
        root = parsed(formula)
        assert "\\" not in shown(root)
        assert not [element for element in root.iter("mtext") if element.text.startswith("\\")]

    @pytest.mark.parametrize("formula", [one for one in WRITTEN if "backslash" not in one and r"\begin" not in one])
    def test_another_reader_shows_the_same(self, formula):
        other = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", convert(formula)))
        assert shown(parsed(formula)) == shown(other)

    def test_the_source_stands_beside_it(self):
        (source,) = parsed(r"x_{0} \le 1").iter("annotation")
        assert source.text == r"x_{0} \le 1"


class TestStructure:
    @pytest.mark.parametrize(
        ("formula", "element", "children"),
        [
            (r"x_{0}^{2}", "msubsup", ["mi", "mn", "mn"]),
            (r"x^{2}_{0}", "msubsup", ["mi", "mn", "mn"]),
            (r"x^{\top}", "msup", ["mi", "mo"]),
            (r"\frac{x + 1}{2}", "mfrac", ["mrow", "mn"]),
            (r"\underset{3}{a}", "munder", ["mi", "mn"]),
            (r"\max_{q}\; x", "munder", ["mi", "mi"]),
            (r"\operatorname*{arg\,max}_{w}\; f", "munder", ["mi", "mi"]),
            (r"\operatorname{sum}_{w}", "msub", ["mi", "mi"]),
            (r"\sqrt{x}", "msqrt", ["mi"]),
            (r"\mathcal{A_{1}}", "msub", ["mi", "mn"]),
        ],
    )
    def test_what_stands_where(self, formula, element, children):
        (found,) = parsed(formula).iter(element)
        assert [child.tag for child in found] == children

    def test_a_reduced_problem_has_a_row_a_line_and_two_columns(self):
        x = ak.Variable(3)
        base = ak.base.Gaussian(np.zeros(3), 1.0)
        formula = ak.Problem(-ak.norm2(x), base, ak.Wasserstein(weight=1.0)).compile().to_latex()
        (table,) = parsed(formula).iter("mtable")
        assert [len(row) for row in table] == [2] * len(formula.split(r"\\ "))

    def test_a_matrix_has_brackets(self):
        root = parsed(r"\begin{bmatrix} x \\ y \end{bmatrix}")
        assert [len(row) for row in root.iter("mtr")] == [1, 1]
        assert [fence.text for fence in root.iter("mo")] == ["[", "]"]

    def test_what_users_write_is_escaped(self):
        root = parsed(latex_name("<script>&'"))
        assert "script" not in tags(root) and shown(root) == "<script>&'"

    @pytest.mark.parametrize(
        "formula", [r"\left(x", "{x", "x}", r"\frac{1}", "", "^", r"\unknown{x}", r"\begin{aligned}"]
    )
    def test_broken_formulas_are_shown_as_far_as_they_go(self, formula):
        assert parsed(formula) is not None
