"""Which route each problem takes: tables of verdicts, rows added to the table, and what backends are asked."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

import alignkit as ak
from alignkit import registry
from alignkit.compiler.bids import collect_offers
from alignkit.compiler.composition import compose
from alignkit.compiler.plan import analyse, make_plan
from alignkit.compiler.routes import (
    ROUTES,
    UNDER_KL,
    UNDER_WASSERSTEIN,
    Options,
    Precondition,
    ProblemClass,
    Reduction,
    RouteTable,
    Terminal,
    class_of,
)
from alignkit.contracts import Bid, Guarantee, Refusal, TiltProgram
from alignkit.errors import (
    AlignkitError,
    BackendRefusedError,
    BackendUnavailableError,
    DimensionError,
    IntractableError,
    UnboundedTransportError,
)
from alignkit.registry import BackendStatus, Manifest
from alignkit.tilting.selection import missing_measure

D = 5
X = ak.Variable((D,))
GENERATOR = np.random.default_rng(0)
B, H = GENERATOR.normal(size=(2, D)), GENERATOR.normal(size=D)
WIDE = GENERATOR.normal(size=(4, D))
LAWS = {
    "Gaussian": ak.base.Gaussian(np.ones(D), 0.5),
    "mixture": ak.base.GaussianMixture([0.5, 0.5], [np.ones(D), -np.ones(D)], [0.25, 0.5]),
    "data": ak.base.Empirical(GENERATOR.normal(size=(50, D))),
    "denoiser": ak.base.Denoiser(
        ak.base.Gaussian(np.zeros(D), 1.0).denoise, (D,), sigma_min=0.01, sigma_max=50.0, tail="bounded", name="net"
    ),
}
WEIGHT = 3.0


def zigzag(points):
    """Of Lipschitz constant √2, known here as one of 1e6."""
    return np.sin(points).sum(axis=1)


#: name: (reward, k, outcome under KL, outcome under Wasserstein), by the theorems of arXiv 2605.11361 and 2602.16570:
#: the route with the backends that may serve it, or the error.
TABLE = {
    "constant shift": (ak.inner(H, X) - ak.inner(H, X) + 1.0, 0, "linear tilt", "shift"),
    "affine": (ak.inner(H, X) + 2.0, 0, "linear tilt", "shift"),
    "affine that cancels atoms": (ak.sum(X) + 0 * ak.norm1(X), 0, "linear tilt", "shift"),
    "max of equal slopes": (ak.max(ak.stack([X[0], X[0] + 1.0])), 0, "linear tilt", "shift"),
    "concave, every entry": (-ak.norm1(X), 5, IntractableError, "concave proximal transport"),
    "concave, one feature": (-ak.square(X[0]) + ak.sum(X), 1, IntractableError, "concave proximal transport"),
    "concave, polyhedral": (ak.min(B @ X) - ak.abs(X[0]), 2, IntractableError, "concave proximal transport"),
    "smooth concave": (-ak.log_sum_exp(B @ X), 1, IntractableError, "concave proximal transport"),
    "convex quadratic, dominated": (ak.square(X[0]), 1, "mixture of tilts", "concave proximal transport"),
    "quadratic, both signs": (
        ak.square(X[0]) - 2 * ak.square(X[1]), 2, IntractableError, "concave proximal transport",
    ),
    "convex quadratic, too steep": (2 * ak.square(X[0]), 1, "mixture of tilts", UnboundedTransportError),
    "huber, bent less than λ": (ak.huber(X[0]), 1, "mixture of tilts", "concave proximal transport"),
    "Lipschitz, convex, k = 2": (ak.norm2(B @ X), 2, "mixture of tilts", "Lipschitz proximal transport"),
    "Lipschitz, no curvature, k = 1": (
        ak.abs(X[0]) - ak.abs(X[0] - 1.0), 1, IntractableError, "Lipschitz proximal transport",
    ),
    "Lipschitz, black box too rough to search": (
        ak.lipschitz(zigzag, 1e6, B @ X), 2, IntractableError, BackendRefusedError,
    ),
    "Lipschitz, convex, k = 4": (ak.norm2(WIDE @ X), 4, DimensionError, DimensionError),
    "Lipschitz, no curvature, k = 5": (ak.norm2(X) - ak.norm1(X), 5, IntractableError, DimensionError),
    "grows like a square, no curvature": (
        0.1 * ak.square(ak.abs(X[0]) - 1.0), 1, IntractableError, IntractableError,
    ),
}  # fmt: skip


def analysed(reward, base, closeness, table=ROUTES):
    return analyse(reward, compose(reward), base, closeness, table)


class TestVerdicts:
    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("name", TABLE)
    @pytest.mark.parametrize("closeness", [ak.KL(weight=WEIGHT), ak.Wasserstein(weight=WEIGHT)], ids=["KL", "W"])
    def test_problems_take_the_route_that_theory_gives_them(self, closeness, name, law):
        reward, dimension, under_kl, under_wasserstein = TABLE[name]
        expected = under_kl if isinstance(closeness, ak.KL) else under_wasserstein
        problem = ak.Problem(reward, LAWS[law], closeness)
        served = isinstance(expected, str)
        assert problem.is_tractable() == served
        if served:
            plan = problem.compile()
            assert (plan.route, plan.dimension) == (expected, dimension)
            assert (plan.backend == "none") == (expected == "shift")
        else:
            with pytest.raises(expected) as caught:
                problem.compile()
            assert type(caught.value) is expected
            named = caught.value.expression
            assert named == str(reward) or (expected is UnboundedTransportError and named in str(reward))
            assert caught.value.ways_out

    @pytest.mark.parametrize("name", TABLE)
    def test_every_route_of_the_closeness_has_a_verdict(self, name):
        for closeness in (ak.KL(weight=WEIGHT), ak.Wasserstein(weight=WEIGHT)):
            _, verdicts = analysed(TABLE[name][0], LAWS["Gaussian"], closeness)
            assert [verdict.route for verdict in verdicts] == list(ROUTES.routes(class_of(closeness)))
            assert all(verdict.admits == (verdict.excluded is None) for verdict in verdicts)

    def test_a_reason_names_what_stands_in_the_way(self):
        reward = ak.square(X[0]) - ak.norm1(X[1:])
        _, verdicts = analysed(reward, LAWS["Gaussian"], ak.KL(weight=1.0))
        reasons = {verdict.route.name: verdict.excluded for verdict in verdicts}
        assert "square(x[0]) and -norm1(x[1:]) are nonlinear" in reasons["linear tilt"]
        assert "norm1(x[1:]) must be concave here" in reasons["mixture of tilts"]
        _, verdicts = analysed(ak.square(ak.norm2(WIDE @ X)), LAWS["Gaussian"], ak.Wasserstein(weight=1.0))
        reasons = {verdict.route.name: verdict.excluded for verdict in verdicts}
        lipschitz = reasons["Lipschitz proximal transport"]
        assert "k = 4 is above 3: the rank of [4×5 constant] @ x (4 rows)" in lipschitz
        assert "no Lipschitz constant of f is known: square(norm2([4×5 constant] @ x))" in lipschitz


class TestDimensionError:
    def test_it_names_the_affine_sub_expressions_that_make_up_k(self):
        reward = ak.norm2(B @ X) + ak.abs(X[0] - 1.0) - ak.norm1(X[:2])
        with pytest.raises(DimensionError) as caught:
            ak.Problem(reward, LAWS["Gaussian"], ak.Wasserstein(weight=1.0)).compile()
        error = caught.value
        assert "k = 4" in error.message and isinstance(error, IntractableError)
        for feature in ("[2×5 constant] @ x (2 rows)", "x[0] - 1 (1 row)", "x[:2] (2 rows)"):
            assert feature in error.message
        assert error.expression == str(reward) and error.ways_out

    def test_one_feature_less_and_the_route_is_open(self):
        reward = ak.norm2(B @ X) - ak.norm1(X[:2])
        _, verdicts = analysed(reward, LAWS["Gaussian"], ak.Wasserstein(weight=1.0))
        assert not any(verdict.admits for verdict in verdicts)
        _, verdicts = analysed(ak.norm2(B @ X) - ak.norm1(X[:1]), LAWS["Gaussian"], ak.Wasserstein(weight=1.0))
        assert [verdict.route.name for verdict in verdicts if verdict.admits] == ["Lipschitz proximal transport"]


class TestTheTable:
    """Adding a route is adding a row, and the plan is the cheapest path."""

    TILTED = next(terminal.problems for terminal in ROUTES.terminals if terminal.problems.name == "one linear tilt")

    def plan(self, table, reward, closeness, law="Gaussian", **options):
        return make_plan(*analysed(reward, LAWS[law], closeness, table), LAWS[law], table=table, **options)

    def test_a_new_row_gives_an_intractable_problem_a_plan(self):
        row = Reduction(
            name="tangent at 0",
            source=UNDER_KL,
            target=self.TILTED,
            becomes="q is approached by the tilt along the linear part",
            preconditions=(Precondition("concave", lambda found: found.curvature.is_concave, lambda _: "not concave"),),
            guarantee="none",
            strength=Guarantee.HEURISTIC,
        )
        reward, closeness = ak.sum(X) - ak.norm1(X), ak.KL(weight=1.0)
        before = ROUTES
        with pytest.raises(IntractableError):
            self.plan(ROUTES, reward, closeness)
        plan = self.plan(ROUTES.with_rows(row), reward, closeness)
        assert (plan.route, plan.backend) == ("tangent at 0", "exact")
        assert (
            isinstance(plan.request, TiltProgram)
            and "tangent at 0" in str(plan)
            and "along the linear part" in str(plan)
        )
        assert before is ROUTES and all(step.name != "tangent at 0" for step in ROUTES.reductions)
        with pytest.raises(IntractableError):
            ak.Problem(reward, LAWS["Gaussian"], closeness).compile()

    @pytest.mark.parametrize(
        ("strength", "cost", "taken"),
        [
            (Guarantee.EXACT, 0.0, "short cut"),
            (Guarantee.EXACT, 1.0, "shift"),
            (Guarantee.CERTIFIED, 0.0, "shift"),
        ],
    )
    def test_the_stronger_and_then_the_cheaper_route_is_taken(self, strength, cost, taken):
        end = ProblemClass("a map in a book")
        row = Reduction("short cut", UNDER_WASSERSTEIN, end, "looked up", cost=lambda found: cost, strength=strength)
        table = ROUTES.with_rows(row, terminals=(Terminal(end),))
        plan = self.plan(table, ak.sum(X), ak.Wasserstein(weight=1.0))
        assert (plan.route, plan.backend) == (taken, "none")
        assert {"short cut", "shift"} <= {verdict.route.name for verdict in plan.verdicts if verdict.admits}

    def test_the_last_edge_is_the_bid(self):
        """A reduction that costs more wins by a backend that is faster on what it leads to."""
        sampled = ProblemClass("one linear tilt, by name")
        slow = Terminal(sampled, "tilt_sampler", lambda found, base, options: TiltProgram(
            LAWS["denoiser"], np.ones((1, D)), np.ones((1, 1)), options.rows
        ))  # fmt: skip
        row = Reduction("through the network", UNDER_KL, sampled, "the same tilt", cost=lambda found: 0.0)
        plan = self.plan(ROUTES.with_rows(row, terminals=(slow,)), ak.sum(X), ak.KL(weight=1.0))
        # Free as a reduction, but nobody offers an exact sampler of the network.
        assert (plan.route, plan.backend) == ("linear tilt", "exact")
        assert [type(answer) for offer in plan.offers[1:] for answer in offer.answers] == [Bid, Refusal]
        only = RouteTable((row,), (slow,))
        assert self.plan(only, ak.sum(X), ak.KL(weight=1.0)).backend == "torch"

    def test_paths_of_several_steps_fail_at_their_first_obstacle(self):
        a, b = ProblemClass("a"), ProblemClass("b")
        never = Precondition("never", lambda found: False, lambda found: "the second step never applies")
        ask = Precondition("asked", lambda found: pytest.fail("asked behind an obstacle"), lambda found: "")
        steps = (
            Reduction("first", UNDER_KL, a, "…"),
            Reduction("second", a, b, "…", preconditions=(never,)),
            Reduction("third", b, self.TILTED, "…", preconditions=(ask,)),
        )
        _, verdicts = analysed(-ak.norm1(X), LAWS["Gaussian"], ak.KL(weight=1.0), ROUTES.with_rows(*steps))
        (third,) = [verdict for verdict in verdicts if verdict.route.name == "third"]
        assert third.obstacle is steps[1] and third.excluded == "the second step never applies"
        assert [step.name for step in third.route.reductions] == ["first", "second", "third"]

    def test_circles_end(self):
        a = ProblemClass("a")
        there, back = Reduction("there", UNDER_KL, a, "…"), Reduction("back", a, UNDER_KL, "…")
        loop = Reduction("loop", a, a, "…")
        names = [route.name for route in ROUTES.with_rows(there, back, loop).routes(UNDER_KL)]
        assert names == ["linear tilt", "mixture of tilts"]

    def test_costs_count_the_work_of_the_reduction(self):
        x = ak.Variable((1000,))
        closeness = ak.Wasserstein(weight=1.0)
        costs = []
        for rows in (1, 2):
            reward = -ak.norm1(GENERATOR.normal(size=(rows, 1000)) @ x)
            diagnosis, verdicts = analysed(reward, ak.base.Gaussian(np.zeros(1000), 1.0), closeness)
            costs.append(
                next(v for v in verdicts if v.route.name == "concave proximal transport").route.cost(diagnosis)
            )
        # x + g/λ, Qx and Qᵀz: (1 + 2k)·d for each of 10,000 rows, at 10⁹ a second.
        np.testing.assert_allclose(costs, [3e-2, 5e-2])

    def test_where_a_kind_of_problem_cannot_be_solved_yet_a_row_says_so(self):
        unsolved = ProblemClass("unsolved")
        table = RouteTable(
            (Reduction("promised", UNDER_KL, unsolved, "…", guarantee="exact"),),
            (Terminal(unsolved, missing="nobody has written it"),),
        )
        diagnosis, verdicts = analysed(ak.norm1(X), LAWS["Gaussian"], ak.KL(weight=1.0), table)
        with pytest.raises(BackendUnavailableError, match=r"promised.*nobody has written it"):
            make_plan(diagnosis, verdicts, LAWS["Gaussian"], table=table)


SOLVER = """
class Solver:
    asked = []
    def bid(self, problem):
        self.asked.append(problem)
        return ANSWER
"""


@pytest.fixture
def statuses(monkeypatch):
    """Statuses of made-up backends that give the answers passed in."""

    def make(**answers):
        found = []
        for name, answer in answers.items():
            module = types.ModuleType(f"made_up_{name}")
            module.ANSWER = answer
            exec(SOLVER, module.__dict__)
            monkeypatch.setitem(sys.modules, module.__name__, module)
            manifest = Manifest(name=name, prox_solver=f"{module.__name__}:Solver")
            found.append(BackendStatus(name, "made up 1.0", manifest, True, "prox solver"))
        return tuple(found)

    return make


class TestBids:
    CLOSENESS = ak.Wasserstein(weight=2.0)

    def offers(self, statuses):
        diagnosis, verdicts = analysed(-ak.norm1(X[:2]), LAWS["Gaussian"], self.CLOSENESS)
        routes = [verdict.route for verdict in verdicts if verdict.admits]
        return collect_offers(routes, diagnosis, LAWS["Gaussian"], Options(), statuses)

    def test_the_best_bid_stands_first_and_refusals_last(self, statuses):
        made = statuses(
            a=Refusal("?", "no"),
            b=Bid("?", "slow", Guarantee.EXACT, 9.0),
            c=Bid("?", "weak", Guarantee.CERTIFIED, 0.0),
            d=Bid("?", "fast", Guarantee.EXACT, 1.0),
        )
        (offer,) = self.offers(made)
        assert [answer.backend for answer in offer.answers] == ["d", "b", "c", "a"]

    def test_routes_that_ask_the_same_are_asked_for_once(self, statuses):
        made = statuses(a=Refusal("?", "no"))
        (offer,) = self.offers(made)
        assert [route.name for route in offer.routes] == ["concave proximal transport", "Lipschitz proximal transport"]
        assert len(sys.modules["made_up_a"].Solver.asked) == 1

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (Bid("?", "?", Guarantee.EXACT, math.nan), "predicts nan seconds"),
            (Bid("?", "?", Guarantee.EXACT, -1.0), "predicts -1.0 seconds"),
            (Bid("?", "?", "exact", 1.0), "promises 'exact', which is no Guarantee"),
            (None, "its bid is a NoneType"),
        ],
    )
    def test_bids_that_cannot_be_compared_are_refusals(self, statuses, answer, says):
        (offer,) = self.offers(statuses(a=answer, b=Bid("?", "good", Guarantee.CERTIFIED, 1.0)))
        assert [one.backend for one in offer.bids] == ["b"]
        (refusal,) = offer.refusals
        assert refusal.backend == "a" and "broken" in refusal.reason and says in refusal.reason

    def test_one_look_at_the_registry_serves_a_whole_compile(self, monkeypatch):
        looks = []
        look = registry.installed_backends
        monkeypatch.setattr(registry, "installed_backends", lambda: looks.append(1) or look())
        for reward in (ak.sum(X), -ak.norm1(X)):
            for closeness in (ak.KL(weight=1.0), ak.Wasserstein(weight=1.0)):
                looks.clear()
                problem = ak.Problem(reward, LAWS["Gaussian"], closeness)
                with contextlib.suppress(AlignkitError):
                    problem.compile()
                assert len(looks) == 1

    @pytest.mark.parametrize("reward", [ak.norm2(X[:2]), ak.power(X[0], 4)], ids=["tame", "too steep"])
    def test_measures_are_looked_for_once_on_each_domain(self, monkeypatch, reward):
        asked = []

        def counted(nonlinear, *, bounded):
            asked.append((id(nonlinear), bounded))
            return missing_measure(nonlinear, bounded=bounded)

        monkeypatch.setattr("alignkit.compiler.diagnosis.missing_measure", counted)
        problem = ak.Problem(reward, LAWS["Gaussian"], ak.KL(weight=1.0))
        with contextlib.suppress(AlignkitError):
            problem.compile()
        own = [one for one in asked if one[0] == asked[0][0]]
        assert sorted(bounded for _, bounded in own) == [False, True]

    def test_a_named_backend_is_the_only_one_asked(self):
        problem = ak.Problem(-ak.norm1(X), LAWS["Gaussian"], self.CLOSENESS)
        plan = problem.compile(backend="cvxpy")
        assert plan.backend == "cvxpy" and [answer.backend for answer in plan.answers] == ["cvxpy"]

    @pytest.mark.parametrize("closeness", [ak.KL(weight=1.0), ak.Wasserstein(weight=2.0)], ids=["KL", "W"])
    def test_bidding_imports_no_engine(self, closeness):
        code = f"""
            import sys
            import alignkit as ak
            x = ak.Variable((4,))
            reward = ak.sum(x) if {isinstance(closeness, ak.KL)} else -ak.norm1(x)
            ak.Problem(reward, ak.base.Gaussian([0.0] * 4, 1.0), ak.{type(closeness).__name__}(weight=1.0)).compile()
            print([name for name in "torch jax cvxpy pyomo numba matplotlib".split() if name in sys.modules])
        """
        assert run(code) == "[]"


def run(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return done.stdout.strip()
