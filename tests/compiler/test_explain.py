"""What explanations say: the tree with the node to blame, the composition, every route, every bid, and the papers."""

from __future__ import annotations

import re

import numpy as np
import pytest

import alignkit as ak
from alignkit.citations import DISCIPLINED_CONVEX_PROGRAMMING, QUADRATIC_REWARDS, TRACTABILITY_LANDSCAPE, Citation
from alignkit.compiler.tree import tree_lines
from alignkit.compiler.violations import violations
from alignkit.contracts import Bid, Refusal
from alignkit.errors import (
    AlignkitError,
    BackendRefusedError,
    BackendUnavailableError,
    DimensionError,
    IntractableError,
    ParameterError,
    UnboundedTransportError,
)
from alignkit.expressions import Curvature
from alignkit.expressions.expression import topological

D = 5
X = ak.Variable((D,))
GENERATOR = np.random.default_rng(0)
B, WIDE = GENERATOR.normal(size=(2, D)), GENERATOR.normal(size=(4, D))


def zigzag(points):
    """Of Lipschitz constant √2, known here as one of 1e6: too much to search with."""
    return np.sin(points).sum(axis=1)


ROUGH = ak.lipschitz(zigzag, 1e6, B @ X)
BASE = ak.base.Gaussian(np.ones(D), 0.5)
KL, W = ak.KL(weight=3.0), ak.Wasserstein(weight=3.0)


def section(text, title):
    """The lines under a heading, to the next line that is not indented."""
    lines = text.splitlines()
    (start,) = [at for at, line in enumerate(lines) if line.startswith(title)]
    ends = (at for at in range(start + 1, len(lines)) if not lines[at].startswith(" "))
    return lines[start + 1 : next(ends, len(lines))]


def nodes_of(lines):
    """The lines that stand for a node, without marks, the heading and counts of what is left out."""
    return [line for line in lines[1:] if "✗" not in line and "left out" not in line]


class TestTree:
    SHARED = ak.norm1(X)
    REWARD = ak.square(ak.abs(X[0]) - 1.0) - 2 * SHARED + ak.square(SHARED)

    def test_every_node_has_a_line_with_what_the_rules_find(self):
        lines = tree_lines(self.REWARD)
        texts = [re.split(r"\s{2,}", re.sub(r"^[ │├└─]*", "", line)) for line in nodes_of(lines)]
        nodes = topological(self.REWARD, lambda node: node.is_affine())
        found = {text[0]: text[1] for text in texts if text[1] != "as above"}
        for node in nodes:
            assert found[str(node)] == str(node.curvature)
        assert len(found) == len({str(node) for node in nodes})

    def test_signs_and_monotonicity_are_those_of_the_nodes(self):
        lines = {re.sub(r"^[ │├└─]*", "", line).split("  ")[0]: line for line in tree_lines(self.REWARD)}
        assert lines["abs(x[0]) - 1"].endswith("not monotone")
        assert re.search(r"convex +nonnegative +decreasing$", lines["2 * norm1(x)"])
        assert re.search(r"convex +nonnegative +increasing$", lines["square(norm1(x))"])

    def test_shared_nodes_are_opened_once(self):
        lines = nodes_of(tree_lines(self.REWARD))
        assert sum(bool(re.search("─ norm1\\(x\\) ", line)) for line in lines) == 2
        assert sum("as above" in line for line in lines) == 1

    @pytest.mark.parametrize("wanted", [Curvature.CONVEX, Curvature.CONCAVE])
    def test_marks_stand_under_the_node_to_blame(self, wanted):
        found = violations(self.REWARD, wanted)
        lines = tree_lines(self.REWARD, found)
        marks = [at for at, line in enumerate(lines) if "✗" in line]
        assert len(marks) == len(found) > 0
        for at, violation in zip(marks, found, strict=True):
            above = next(line for line in reversed(lines[:at]) if "✗" not in line)
            assert str(violation.node) in above and violation.reason in lines[at]

    @pytest.mark.parametrize("longest", [5, 20, 40])
    def test_long_trees_say_how_much_is_left_out(self, longest):
        reward = ak.sum(X)
        for at in range(60):
            reward = reward + (ak.abs(X[at % D] - at) if at != 47 else -ak.square(ak.abs(X[0]) + 1.0))
        whole = nodes_of(tree_lines(reward, longest=1000))
        found = violations(reward, Curvature.CONVEX)
        lines = tree_lines(reward, found, longest)
        shown = nodes_of(lines)
        left_out = sum(int(count) for count in re.findall(r"… (\d+) lines? left out", "\n".join(lines)))
        assert len(shown) == longest and len(shown) + left_out == len(whole)
        assert [line for line in whole if line in shown] == shown
        # What is to blame is shown even where it comes late.
        (mark,) = [line for line in lines if "✗" in line]
        assert found[0].reason in mark

    def test_deep_rewards_are_explained(self):
        reward = ak.abs(X[0])
        for _ in range(1000):
            reward = ak.pos(reward - 0.1)
        text = ak.Problem(reward, BASE, KL).explain()
        # Three lines a step, and the two at the bottom; forty are shown.
        assert f"{3 * 1000 + 2 - 40} lines left out" in text and "mixture of tilts" in text


class TestProblem:
    def test_a_plan_is_explained_line_by_line(self):
        reward = -ak.norm1(B @ X) + ak.mean(X)
        text = ak.Problem(reward, BASE, W).explain()
        titles = [line.split(" (")[0].split(" for ")[0] for line in text.splitlines() if not line.startswith(" ")]
        assert titles == ["Problem", "Rules", "Routes", "Backends", "Plan"]
        problem = dict(line.strip().split(maxsplit=1) for line in section(text, "Problem"))
        assert problem["maximise"] == "E_q[r] − 3·W_c(q, p), c = ½‖x − y‖²"
        assert problem["base"] == "Gaussian, shape (5,)" and problem["reward"] == str(reward)
        assert problem["seen"].startswith("as     f(w) = -norm1([2×2 constant] @ w)") and "⟨g, x⟩" in problem["seen"]
        assert problem["curvature"].startswith("concave: ") and problem["dimension"] == "k = 2 of d = 5"
        assert "✗" not in text
        plan = section(text, "Plan")
        assert [line.split()[0] for line in plan] == ["reduction", "then", "guarantee"]
        assert "arXiv 2605.11361" in plan[-1]

    def test_what_the_rank_decision_dropped_is_told_with_the_tolerance(self):
        doubled = np.vstack([B, B[:1] + B[1:]])
        text = ak.Problem(-ak.norm1(doubled @ X), BASE, W).explain()
        lines = "\n".join(section(text, "Problem"))
        assert "k = 2 of d = 5 (3 affine rows, 1 dependent at 1e-09)" in lines
        assert "1 of 3 rows of [3×5 constant] @ x lie in the span of other rows" in lines

    def test_a_difference_of_convex_functions_is_recognised(self):
        text = ak.Problem(ak.square(X[0]) - ak.norm1(X) + ak.sum(X), BASE, KL).explain()
        lines = [line.strip() for line in section(text, "Problem")]
        at = lines.index("parts       a difference of convex functions:")
        assert lines[at + 1 : at + 4] == ["convex  square(x[0])", "concave -norm1(x)", "affine  sum(x)"]
        other = ak.Problem(ak.square(ak.abs(X[0]) - 1.0), BASE, KL).explain()
        assert "no difference of convex functions as far as is proved: square(abs(x[0]) - 1)" in other

    @pytest.mark.parametrize(
        ("closeness", "blamed"), [(KL, "norm1(x)"), (W, "4 * square(x[0])")], ids=["KL", "Wasserstein"]
    )
    def test_the_tree_marks_what_the_closeness_cannot_have(self, closeness, blamed):
        reward = 4 * ak.square(X[0]) - ak.norm1(X)
        lines = section(ak.Problem(reward, BASE, closeness).explain(), "Rules")
        (mark,) = [at for at, line in enumerate(lines) if "✗" in line]
        assert blamed.removeprefix("4 * ") in lines[mark - 1]

    def test_nothing_is_marked_where_the_curvature_is_right(self):
        assert "✗" not in ak.Problem(ak.norm1(X), BASE, KL).explain()

    def test_every_route_says_why_it_was_taken_or_not(self):
        routes = section(ak.Problem(ak.norm2(WIDE @ X) - ak.norm1(X), BASE, W).explain(), "Routes")
        answers = {line[2:30].strip(): line[31:].strip() for line in routes}
        assert list(answers) == ["shift", "concave proximal transport", "Lipschitz proximal transport"]
        assert answers["shift"].startswith("no: the reward is of unknown curvature, not affine: norm2([4×5")
        assert "norm2([4×5 constant] @ x) must be concave here" in answers["concave proximal transport"]
        assert answers["Lipschitz proximal transport"].startswith(
            "no: k = 5 is above 3: the rank of [4×5 constant] @ x"
        )

    def test_alternatives_have_costs_and_bids(self):
        text = ak.Problem(-ak.norm1(X[:2]), BASE, W).explain()
        taken, possible = [line for line in section(text, "Routes") if "proximal" in line]
        assert re.search(r"[\d.]+ ms +taken$", taken) and re.search(r"[\d.]+ ms +possible$", possible)
        assert "Backends for concave proximal transport, Lipschitz proximal transport" in text
        backends = section(text, "Backends")
        assert sum(line.split()[1] == "chosen:" for line in backends) == 1
        assert {line.split()[0] for line in backends} >= {"cvxpy", "torch"}

    def test_the_way_out_is_part_of_the_explanation(self):
        problem = ak.Problem(-ak.norm1(X), BASE, KL)
        with pytest.raises(IntractableError) as caught:
            problem.compile()
        text = problem.explain()
        assert text.endswith(f"IntractableError: {caught.value}")
        assert "ak.Wasserstein(weight=3) in place of KL. (Then concave proximal transport, solved by numba.)" in text

    def test_no_suggestions_are_made_for_what_is_tractable(self):
        for reward, closeness in ((ak.sum(X), KL), (ak.sum(X), W), (-ak.norm1(X), W)):
            text = ak.Problem(reward, BASE, closeness).explain()
            assert "Ways out" not in text and "Drop" not in text and "Flip" not in text


class TestBackends:
    def test_it_is_a_tuple_of_bids_and_refusals_that_prints_as_a_table(self):
        base = ak.base.Denoiser(BASE.denoise, (D,), sigma_min=0.01, sigma_max=50.0, tail="bounded", name="net")
        found = ak.Problem(ak.sum(X), base, KL).backends()
        assert isinstance(found, tuple) and all(isinstance(answer, Bid | Refusal) for answer in found)
        kinds = {answer.backend: type(answer) for answer in found}
        assert kinds["torch"] is Bid and kinds["exact"] is Refusal
        lines = str(found).splitlines()
        assert lines[0] == "Backends for linear tilt"
        assert any(re.match(r"  torch +chosen: .*per 10,000 rows$", line) for line in lines)
        assert any(re.match(r"  exact +refused: 'net' is known through its denoiser alone", line) for line in lines)

    def test_the_better_bid_stands_first(self):
        found = ak.Problem(ak.sum(X), BASE, KL).backends()
        bids = [answer for answer in found if isinstance(answer, Bid)]
        assert bids == sorted(bids, key=lambda bid: bid.rank) and list(found[: len(bids)]) == bids

    def test_where_none_is_needed_it_says_so(self):
        found = ak.Problem(ak.sum(X), BASE, W).backends()
        assert found == () and "none needed" in str(found)

    def test_where_none_was_asked_it_says_why(self):
        found = ak.Problem(-ak.norm1(X), BASE, KL).backends()
        assert found == () and "IntractableError" in str(found)

    def test_where_all_refuse_their_reasons_stand_there(self):
        problem = ak.Problem(ROUGH, BASE, W)
        found = problem.backends()
        assert {answer.backend for answer in found} >= {"cvxpy", "grid", "torch"}
        assert all(isinstance(answer, Refusal) for answer in found)
        for answer in found:
            assert f"{answer.backend:<12} refused: {answer.reason}" in problem.explain()


class TestCite:
    def test_the_papers_of_the_route_the_rules_and_the_method(self):
        text = ak.Problem(-ak.norm1(X), BASE, W).cite()
        lines = text.splitlines()
        assert lines[:2] == [str(TRACTABILITY_LANDSCAPE), str(DISCIPLINED_CONVEX_PROGRAMMING)]
        assert any("Parikh" in line and "Proximal algorithms" in line for line in lines)

    def test_an_affine_reward_needs_no_rules(self):
        assert ak.Problem(ak.sum(X), BASE, KL).cite() == str(TRACTABILITY_LANDSCAPE)

    def test_the_sampler_s_papers_are_the_backend_s(self):
        base = ak.base.Denoiser(BASE.denoise, (D,), sigma_min=0.01, sigma_max=50.0, tail="bounded")
        assert "arXiv 2211.01095" in ak.Problem(ak.sum(X), base, KL).cite()

    def test_the_solver_s_papers_are_the_backend_s(self):
        text = ak.Problem(-ak.norm2(WIDE @ X), BASE, W).cite()
        assert "CVXPY" in text and "Clarabel" in text
        text = ak.Problem(ak.norm2(B @ X), BASE, W).cite()
        assert "seeking the global maximum of a function" in text and "1972" in text

    def test_bibtex_is_well_formed(self):
        text = ak.Problem(-ak.norm1(X), BASE, W).cite(style="bibtex")
        entries = text.split("\n\n")
        assert len(entries) == len(ak.Problem(-ak.norm1(X), BASE, W).cite().splitlines())
        for entry in entries:
            assert re.match(r"@(misc|article|incollection|inproceedings)\{\w+,\n(  \w+ = \{.*\},\n)+\}$", entry)
            assert entry.count("{") == entry.count("}")
        assert "eprint = {2605.11361}" in text and "author = {M. Grant and S. Boyd and Y. Ye}" in text

    def test_authors_nobody_knows_are_left_out(self):
        for paper in (TRACTABILITY_LANDSCAPE, QUADRATIC_REWARDS):
            assert "author" not in paper.bibtex and f"eprint = {{{paper.arxiv}}}" in paper.bibtex

    def test_characters_that_latex_takes_for_commands_are_escaped(self):
        paper = Citation(key="k", title="50 % of A_1 & B", year=2020, venue="Proc. #3")
        assert r"title = {{50 \% of A\_1 \& B}}" in paper.bibtex and r"note = {Proc. \#3}" in paper.bibtex

    def test_other_styles(self):
        with pytest.raises(ParameterError, match="'apa'"):
            ak.Problem(ak.sum(X), BASE, KL).cite(style="apa")

    def test_without_a_plan_there_is_nothing_to_cite(self):
        with pytest.raises(IntractableError):
            ak.Problem(-ak.norm1(X), BASE, KL).cite()


#: Every error of the compiler, with the sub-expression and the rule that it must name.
ERRORS = {
    "IntractableError, KL": (
        ak.sum(X) - ak.norm1(X - 1.0), KL, IntractableError, "norm1(x - 1)",
        "norm1(x - 1) must be concave here, and norm1 is convex",
    ),
    "IntractableError, Wasserstein": (
        ak.square(ak.abs(X[0]) - 1.0), ak.Wasserstein(weight=20.0), IntractableError, "square(abs(x[0]) - 1)",
        "no Lipschitz constant of f is known",
    ),
    "DimensionError": (ak.norm2(WIDE @ X), W, DimensionError, "[4×5 constant] @ x (4 rows)", "k = 4 is above 3"),
    "UnboundedTransportError": (
        5 * ak.square(X[0]) + ak.sum(X), W, UnboundedTransportError, "square(x[0])", "critical value 10",
    ),
    "BackendRefusedError": (ROUGH, W, BackendRefusedError, "zigzag([2×5 constant] @ x)", "evaluations a row"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_sub_expression_the_rule_and_a_way_out(name):
    reward, closeness, kind, part, rule = ERRORS[name]
    with pytest.raises(kind) as caught:
        ak.Problem(reward, BASE, closeness).compile()
    error = caught.value
    assert isinstance(error, AlignkitError) and type(error) is kind
    assert part in str(error) and rule in error.message
    assert error.ways_out and all(f"  - {way}" in str(error) for way in error.ways_out)


@pytest.mark.parametrize("backend", ["nobody", "exact"])
def test_a_backend_that_cannot_serve_is_told_with_the_reward(backend):
    reward = -ak.norm1(X)
    with pytest.raises(BackendUnavailableError) as caught:
        ak.Problem(reward, BASE, W).compile(backend=backend)
    assert caught.value.expression == str(reward) and caught.value.ways_out
