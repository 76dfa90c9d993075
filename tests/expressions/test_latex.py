"""LaTeX of expressions: what is written, and that two independent readers of LaTeX take it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest
from latex2mathml.converter import convert
from matplotlib.mathtext import MathTextParser
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import alignkit.expressions as ex
from alignkit.expressions.atoms.elementwise import Abs
from alignkit.expressions.expression import LONGEST_TEXT
from alignkit.expressions.latex import RULES, Letters, latex, latex_name, latex_number
from alignkit.expressions.table import ENTRIES

X, V, S = ex.Variable((8, 8), name="X"), ex.Variable(3), ex.Variable()
B = np.arange(512.0).reshape(8, 64)
TARGET = ex.Parameter(3, name="target")
WEIGHT = ex.Parameter(name="lambda_0", nonneg=True)

WRITTEN: dict[str, Callable[[], ex.Expression]] = {
    # Arithmetic and brackets.
    r"1 - x": lambda: 1 - V,
    r"x - 1": lambda: V - 1,
    r"3 - \left(x - 1\right)": lambda: 3 - (V - 1),
    r"-\left(x + 1\right)": lambda: -(V + 1),
    r"x - 2 x": lambda: V - 2 * V,
    r"2 \left(x + 1\right)": lambda: 2 * (V + 1),
    r"-2.5 \left(-x\right)": lambda: -2.5 * -V,
    r"2 \cdot 3 x": lambda: ex.multiply(2, ex.multiply(3, V)),
    r"1.5 \times 10^{-7} x": lambda: 1.5e-7 * V,
    r"10^{20} x": lambda: 1e20 * V,
    r"\frac{x + 1}{2}": lambda: (V + 1) / 2,
    r"\left(\frac{x}{2}\right)^{2}": lambda: ex.square(S / 2),
    # Powers: entry by entry but for scalars, and never two scripts on one base.
    r"x^{2}": lambda: S**2,
    r"x^{\circ 2}": lambda: V**2,
    r"x_{0}^{2}": lambda: V[0] ** 2,
    r"\left(x^{2}\right)^{3}": lambda: ex.power(S**2, 3),
    r"\left(x^{2}\right)^{-0.5}": lambda: ex.power(S**2, -0.5),
    r"\left\|x\right\|_{2}^{2}": lambda: ex.square(ex.norm2(V)),
    r"\left(x\right)_{+}^{\circ 2}": lambda: ex.square(ex.pos(V)),
    r"\left(\exp\left(x\right)\right)^{2}": lambda: ex.square(ex.exp(S)),
    r"\left(10^{7} x\right)^{2}": lambda: ex.square(1e7 * S),
    r"\left(x_{0}\right)_{{:}}": lambda: ex.Variable((2, 3))[0][:],
    # Products of arrays.
    r"\underset{8\times 64}{A} \operatorname{vec}\left(X\right) - \underset{8}{a}": lambda: B @ ex.vec(X) - np.ones(8),
    r"\underset{3}{a}^{\top} x": lambda: np.ones(3) @ V,
    r"\underset{3\times 2}{A}^{\top} x": lambda: V @ np.ones((3, 2)),
    r"X^{\top} \underset{8}{a}": lambda: np.ones(8) @ X,
    r"X \underset{8}{a}": lambda: X @ np.ones(8),
    r"\underset{8\times 8}{A} X \underset{8\times 8}{A}": lambda: np.eye(8) @ X @ np.eye(8),
    r"\underset{3}{a} \circ x": lambda: np.ones(3) * V,
    r"\underset{3}{a} \circ \left(\underset{3\times 3}{A} x\right)": lambda: np.ones(3) * (np.eye(3) @ V),
    r"\underset{3\times 3}{A} \left(\underset{3}{a} \circ x\right)": lambda: np.eye(3) @ (np.ones(3) * V),
    r"\left\langle \underset{3}{a},\, x\right\rangle": lambda: ex.inner(np.ones(3), V),
    r"\left\langle \underset{3}{a},\, x\right\rangle^{2}": lambda: ex.square(ex.inner(np.ones(3), V)),
    r"x \cdot \left(x - 1\right)": lambda: S * (S - 1),
    r"x \circ \left(x - 1\right)": lambda: V * (V - 1),
    r"\underset{4\times 64}{\mathcal{A}}\left(X\right)": lambda: ex.linear_map(aslinearoperator(B[:4]), X),
    r"\underset{2\times 3}{A} x": lambda: sparse.csr_array(np.ones((2, 3))) @ V,
    # Layout.
    r"X_{1{:},\, {:}{:}-2}": lambda: X[1:, ::-2],
    r"X_{\ldots,\, 0}": lambda: X[..., 0],
    r"x_{\mathrm{None}}": lambda: V[None],
    r"X_{\left[8\times 8\ \mathrm{mask}\right]}": lambda: X[np.eye(8) > 0],
    r"x_{\left[2\ \mathrm{indices}\right]}": lambda: V[[0, 2]],
    r"X^{\top}": lambda: X.T,
    r"\begin{bmatrix} x \\ 2 x \end{bmatrix}": lambda: ex.concatenate([V, 2 * V]),
    r"\begin{bmatrix} X & X \end{bmatrix}": lambda: ex.concatenate([X, X], axis=1),
    r"\begin{bmatrix} x^{\top} \\ \left(2 x\right)^{\top} \end{bmatrix}": lambda: ex.stack([V, 2 * V]),
    # Norms of matrices are those of their entries.
    r"\left\|\operatorname{vec}\left(X\right)\right\|_{1}": lambda: ex.norm1(X),
    r"\left\|X\right\|_{F}": lambda: ex.norm2(X),
    r"\left\|X\right\|_{1,\, \mathrm{axis}=0}": lambda: ex.norm1(X, axis=0),
    r"\left\|X\right\|_{2,\, \mathrm{axis}=(0,\ 1)}^{2}": lambda: ex.sum_squares(X, axis=(0, 1)),
    r"\left\|x\right\|_{\infty}": lambda: ex.norm_inf(V),
    r"\sigma_{\max}\left(X\right)": lambda: ex.sigma_max(X),
    # Names and options.
    r"\left\|x - \mathrm{target}\right\|_{2}^{2}": lambda: ex.sum_squares(V - TARGET),
    r"\lambda_{0} \cdot \left(x + 1\right)": lambda: WEIGHT * (V + 1),
    r"\operatorname{huber}_{M=2}\left(x\right)": lambda: ex.huber(V, 2),
    r"\operatorname{sum\_largest}_{2}\left(x\right)": lambda: ex.sum_largest(V, 2),
    r"\log\left(1 - x\right)": lambda: ex.log1p(-V),
    r"\left(x - \mathrm{target}\right)^{\top} \underset{3\times 3}{A} \left(x - \mathrm{target}\right)": lambda: (
        ex.quad_form(V - TARGET, np.eye(3))
    ),
}

HARD_NAMES = [
    "x_1",
    "alpha",
    "x1",
    "noise level",
    "a_b_c",
    "50%",
    "{",
    "\\",
    "#&$^~",
    "λ",
    "",
    "_",
    "7",
    "x_",
    "x'",
    "🙂",
]


def assert_valid(text: str) -> None:
    """Two readers take it: matplotlib's, which is strict and knows no matrices, and a converter to MathML."""
    assert text.count(r"\left") == text.count(r"\right")
    mathml = convert(text)
    assert "\\" not in re.sub(r"<mo>&#x0*5C;</mo>", "", mathml)
    if r"\begin" not in text:
        MathTextParser("path").parse(f"${text}$".replace(r"\&", "+"))  # the one escape that it lacks


@pytest.mark.parametrize("text", WRITTEN)
def test_forms(text: str) -> None:
    assert WRITTEN[text]().to_latex() == text
    assert_valid(text)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_operation_is_valid_alone_and_inside_others(entry) -> None:
    expression = entry.example(ex.Variable((2, 3)))
    for around in (
        lambda e: e,
        lambda e: 2.0 - e,
        lambda e: -1.5 * e,
        ex.square,
        lambda e: ex.inner(np.ones(e.shape), e),
        lambda e: e[..., None].T,
        lambda e: np.ones(e.shape) * e / 3.0,
        lambda e: ex.norm2(e) ** 3,
        lambda e: e * (e - 1.0),
    ):
        assert_valid(around(expression).to_latex())


def test_rules_are_for_classes_that_exist() -> None:
    listed = {kind for entry in ENTRIES for kind in entry.nodes}
    ancestors = {kind for node in listed for kind in node.__mro__}
    assert RULES.keys() <= ancestors | {ex.Variable, ex.Parameter, ex.Constant, ex.Expectation}


@pytest.mark.parametrize("name", HARD_NAMES)
def test_names_of_users_are_escaped(name: str) -> None:
    text = (ex.square(ex.Variable(name=name)) + ex.Parameter(3, name=name)).to_latex()
    if name and name != "🙂":  # no font of matplotlib's has it
        assert_valid(text)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_names_and_numbers() -> None:
    assert latex_name("theta_0") == r"\theta_{0}"
    assert latex_name("pixels") == r"\mathrm{pixels}"
    assert [latex_number(number) for number in (1.0, -2.5, 1e-7, -3e8, -1e9, 1.23456789)] == [
        "1",
        "-2.5",
        "10^{-7}",
        r"-3 \times 10^{8}",
        "-10^{9}",
        "1.23457",
    ]


class TestLetters:
    def test_each_constant_has_its_own_and_equal_ones_share_it(self) -> None:
        expression = ex.norm1(B @ ex.vec(X) - 1.0) + ex.norm2(B @ ex.vec(X)) + ex.norm1((B + 1.0) @ ex.vec(X))
        assert re.findall(r"\\underset\{8\\times 64\}\{(.)\}", expression.to_latex()) == ["A", "A", "B"]

    def test_large_constants_are_told_apart_by_identity(self) -> None:
        large = ex.Constant(np.zeros((100, 64)))
        text = (ex.norm1(large @ ex.vec(X)) + ex.norm2(large @ ex.vec(X))).to_latex()
        assert re.findall(r"\{([AB])\}", text) == ["A", "A"]
        text = (ex.norm1(np.zeros((100, 64)) @ ex.vec(X)) + ex.norm2(np.zeros((100, 64)) @ ex.vec(X))).to_latex()
        assert re.findall(r"\{([AB])\}", text) == ["A", "B"]

    def test_names_in_use_are_left_out(self) -> None:
        variable = ex.Variable(3, name="A")
        assert (np.ones((2, 3)) @ variable).to_latex() == r"\underset{2\times 3}{B} A"

    def test_they_do_not_run_out(self) -> None:
        letters = Letters([])
        found = [letters.of(np.full(2, float(number))).text for number in range(60)]
        assert len(set(found)) == 60
        for text in found:
            assert_valid(f"{text}^{{2}}")

    def test_parts_of_a_formula_share_them(self) -> None:
        letters = Letters(["x"])
        first, second = latex(np.ones(3) * V, letters), latex(np.zeros(3) * V, letters)
        assert (first, second) == (r"\underset{3}{a} \circ x", r"\underset{3}{b} \circ x")


class TestLength:
    def test_long_sums_keep_their_ends(self) -> None:
        terms = [ex.square(ex.inner(np.full(3, float(number)), V)) for number in range(300)]
        text = sum(terms).to_latex()
        assert len(text) < LONGEST_TEXT and text.count("rangle") == 5
        assert r"\underset{295\ \mathrm{more}}{\cdots}" in text
        assert_valid(text)

    def test_deep_expressions_neither_overflow_the_stack_nor_the_page(self) -> None:
        expression = reduce(lambda inner, _: ex.square(inner) + 1, range(5000), V[0])
        text = expression.to_latex()
        assert len(text) <= LONGEST_TEXT and r"\left[\cdots\right]" in text
        assert text.count(r"\left") == text.count(r"\right")
        assert text.endswith(r"\right)^{2} + 1")

    def test_a_shared_expression_does_not_double_without_end(self) -> None:
        expression = reduce(lambda inner, _: inner * (inner - 1.0), range(100), S)
        text = expression.to_latex()
        assert len(text) <= LONGEST_TEXT
        assert_valid(text)

    def test_a_long_argument_is_not_repeated(self) -> None:
        argument = ex.stack([ex.inner(np.full(3, float(number)), V) for number in range(4)])
        text = ex.quad_form(argument, np.eye(4)).to_latex()
        assert text.startswith(r"\operatorname{quad\_form}\left(\begin{bmatrix}")
        assert_valid(text)


def test_an_atom_of_somebody_else_is_written_by_its_name() -> None:
    class Softer(Abs):
        name = "softer"

    class Strange(ex.Atom):
        name = "so_strange"

        def __init__(self, arg: ex.Expression) -> None:
            super().__init__(arg.shape, (arg,))

        is_atom_convex = is_atom_concave = False

        def monotonicity(self, position):
            return ex.Monotonicity.UNKNOWN

        def _gain(self, position):
            return np.inf

        def _own_range(self):
            return ex.Interval()

        def _numeric(self, xp, values):
            return values[0]

        def _pullback(self, xp, values, result, cotangent):
            return [cotangent]

        def _options(self):
            return ("mode=a_b", "2.5")

    assert Softer(V).to_latex() == r"\operatorname{softer}\left(x\right)"
    text = Strange(V).to_latex()
    assert text == r"\operatorname{so\_strange}_{\mathrm{mode}=a\_b,\, 2.5}\left(x\right)"
    assert_valid(text)


def test_notebooks_show_it() -> None:
    assert ex.norm2(V)._repr_latex_() == r"$\displaystyle \left\|x\right\|_{2}$"
