"""What notebooks show of problems and plans: formulas and tables, valid, escaped, and the same as the text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from latex2mathml.converter import convert
from matplotlib.mathtext import MathTextParser

import alignkit as ak
from alignkit import registry
from alignkit.compiler.account import Account, Fact, RouteRow
from alignkit.compiler.bids import Answers, Offer
from alignkit.compiler.explain import Explanation
from alignkit.compiler.notebook import account_html
from alignkit.compiler.tree import LeftOut
from alignkit.contracts import Bid, Guarantee, Refusal

X = ak.Variable((2, 3), name="X")
V = ak.Variable(3)
PLANE, LINE = ak.base.Gaussian(np.zeros((2, 3)), np.eye(6)), ak.base.Gaussian(np.zeros(3), 1.0)
B = np.arange(12.0).reshape(2, 6)
LAMBDA = ak.Parameter(name="lambda", value=3.0, nonneg=True)
VOID = {"br", "hr", "img", "input", "link", "meta"}

AFFINE = ak.Problem(ak.sum(X) - 1.5, PLANE, ak.KL(weight=0.5))
SHIFT = ak.Problem(ak.sum(V), LINE, ak.Wasserstein(weight=LAMBDA))
CONCAVE = ak.Problem(-ak.norm2(B @ ak.vec(X) - 1.0) + X[0, 0], PLANE, ak.Wasserstein(weight=2.0))
WHOLE = ak.Problem(-ak.norm2(V), LINE, ak.Wasserstein(weight=1.0))
HARD = ak.Problem(ak.norm2(V) - ak.square(V[0]), LINE, ak.KL(weight=1.0))


class Reader(HTMLParser):
    """Rows of cells of every table, the names of the sections, and that every element is closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.rows, self.names, self.text = [], set(), [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in VOID
        self.open.append(tag)
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        elif "summary" in self.open:
            self.names.append(data)


def assert_valid(formula):
    assert formula.count(r"\left") == formula.count(r"\right")
    assert "\\" not in convert(formula)
    if r"\begin" not in formula:
        MathTextParser("path").parse(f"${formula}$")


class TestFormulas:
    @pytest.mark.parametrize("problem", [AFFINE, SHIFT, CONCAVE, WHOLE, HARD])
    def test_problems_are_valid(self, problem):
        assert_valid(problem.to_latex())
        assert problem._repr_latex_() == rf"$\displaystyle {problem.to_latex()}$"

    def test_a_problem_under_kl(self):
        assert AFFINE.to_latex() == (
            r"\max_{q}\; \mathbb{E}_{X \sim q}\left[\operatorname{sum}\left(X\right) - 1.5\right]"
            r" - 0.5\, \mathrm{KL}\left(q \,\|\, p\right),\quad p = \mathrm{Gaussian}"
        )
        assert r"\right] - \mathrm{KL}" in HARD.to_latex()

    def test_a_problem_under_wasserstein(self):
        assert SHIFT.to_latex() == (
            r"\max_{q}\; \mathbb{E}_{x \sim q}\left[\operatorname{sum}\left(x\right)\right]"
            r" - \lambda\, W_{c}\left(q,\, p\right),\quad p = \mathrm{Gaussian},"
            r"\quad c\left(x,\, x'\right) = \frac{1}{2} \left\|x - x'\right\|_{2}^{2}"
        )
        assert CONCAVE.to_latex().endswith(r"\frac{1}{2} \left\|X - X'\right\|_{F}^{2}")

    def test_plans_are_valid(self):
        for problem in (AFFINE, SHIFT, CONCAVE, WHOLE):
            assert_valid(problem.compile().to_latex())

    def test_a_tilt(self):
        assert lines(AFFINE) == [
            r"r\left(X\right) &= \left\langle \underset{6}{g},\, v\right\rangle - 1.5,"
            r"\quad v = \operatorname{vec}\left(X\right)",
            r"q\left(v\right) &\propto p\left(v\right) \exp\left(\left\langle \theta,\, v\right\rangle\right),"
            r"\quad \theta = \frac{1}{0.5} \underset{6}{g}",
        ]

    def test_a_shift(self):
        assert lines(SHIFT)[1] == r"T\left(x\right) &= x + \frac{1}{\lambda} \underset{3}{g}"

    def test_a_proximal_problem(self):
        composition, moved, best, nonlinear = lines(CONCAVE)
        assert composition.startswith(r"r\left(X\right) &= f\left(\underset{2\times 6}{Q} v\right) + \left\langle")
        assert moved == r"T\left(v\right) &= v + \frac{1}{2} \underset{6}{g} + Q^{\top} \left(z - Q v\right)"
        assert r"f\left(w\right) - \frac{2}{2} \left\|w - \underset{2\times 6}{Q} v\right\|_{2}^{2}" in best
        assert nonlinear.startswith(r"f\left(w\right) &= -\left\|")

    def test_where_nothing_is_reduced(self):
        composition, moved, best, nonlinear = lines(WHOLE)
        assert composition == r"r\left(x\right) &= f\left(x\right)"
        assert moved == r"T\left(x\right) &= z"
        assert best.endswith(r"f\left(w\right) - \frac{1}{2} \left\|w - x\right\|_{2}^{2}")
        assert nonlinear == r"f\left(w\right) &= -\left\|w\right\|_{2}"

    def test_a_problem_is_shown_without_asking_anyone(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("a backend was looked for")

        monkeypatch.setattr(registry, "installed_backends", refuse)
        assert HARD._repr_latex_()
        unset = ak.Parameter(3, name="target")
        assert r"\mathrm{target}" in ak.Problem(-ak.norm1(V - unset), LINE, ak.Wasserstein(weight=1.0))._repr_latex_()


def lines(problem):
    body = problem.compile().to_latex().removeprefix(r"\begin{aligned} ").removesuffix(r" \end{aligned}")
    return body.split(r" \\ ")


class TestTables:
    @pytest.mark.parametrize("problem", [AFFINE, SHIFT, CONCAVE, HARD])
    def test_they_say_what_the_text_says(self, problem):
        explanation = problem.explain()
        reader = Reader(explanation._repr_html_())
        account = explanation.account
        for fact in (*account.problem, *account.plan):
            assert [fact.label, fact.text] in reader.rows
            assert fact.text in explanation
        for route in account.routes:
            assert [route.name, route.cost, route.answer] in reader.rows
            assert re.search(rf"^  {re.escape(route.name)} .* {re.escape(route.answer)}$", explanation, re.MULTILINE)
        for offer in account.answers.offers:
            for row in offer.rows(account.answers.chosen):
                assert list(row) in reader.rows
        for row in account.tree:
            assert any(cells[0] == row.branch + row.text for cells in reader.rows)
            for reason in row.reasons:
                assert [f"{row.below}✗ {reason}"] in reader.rows and reason in explanation

    def test_a_plan_shows_its_explanation(self):
        plan = CONCAVE.compile()
        assert Reader(plan._repr_html_()).names == [
            "Problem",
            "Rules",
            "Routes",
            f"Backends for {plan.explain().account.answers.offers[0].title}",
            "Plan",
        ]
        taken = [route.name for route in plan.explain().account.routes if route.verdict == "taken"]
        assert taken == [plan.route]
        assert f"<strong>{plan.route}</strong>" in plan._repr_html_()

    def test_a_refusal_ends_with_the_error_and_its_ways_out(self):
        explanation = HARD.explain()
        error = explanation.account.error
        html = explanation._repr_html_()
        reader = Reader(html)
        assert reader.names[-1] == type(error).__name__
        for way in error.ways_out:
            assert way in reader.text
        assert html.count("✗") == explanation.count("✗") > 1

    def test_what_others_wrote_is_escaped(self):
        name = "<script>alert('&')</script>"
        variable = ak.Variable(2, name=name)

        class Law(ak.base.Gaussian):
            pass

        base = Law([0.0, 0.0], 1.0)
        base.name = "</td><b onclick=x>"
        html = ak.Problem(ak.norm1(variable) - ak.norm2(variable), base, ak.KL(weight=1.0)).explain()._repr_html_()
        reader = Reader(html)
        assert not {"script", "b"} & reader.tags
        assert any(name in cell for row in reader.rows for cell in row)
        account = Account(
            problem=(Fact("<i>", "a & b"),),
            heading="<u>",
            tree=(LeftOut(3),),
            routes=(RouteRow("<i>", "<i>", "no", "<i>"),),
            answers=Answers(
                [
                    Offer((), object(), (Bid("<i>", "<i>", Guarantee.EXACT, 0.1), Refusal("<i>", "<i>"))),
                    Offer((), None, ()),
                ]
            ),
            error=ak.errors.IntractableError("<i>", ways_out=["<i>"], expression="<i>"),
        )
        reader = Reader(account_html(account))
        assert not {"i", "u"} & reader.tags
        assert ["none needed: the reduction is the solution"] in reader.rows
        assert ["… 3 lines left out"] in reader.rows

    def test_nothing_runs_nothing_is_fetched_and_no_colour_is_set(self):
        html = CONCAVE.compile()._repr_html_()
        assert not {"script", "img", "link", "iframe"} & Reader(html).tags
        assert not re.search(r"https?:|url\(|@import|colou?r|background", html)

    def test_an_explanation_is_a_string(self):
        explanation = AFFINE.explain()
        assert isinstance(explanation, str) and isinstance(explanation, Explanation)
        assert str(AFFINE.compile()).splitlines()[0] == "Problem"
        assert explanation.account.error is None
