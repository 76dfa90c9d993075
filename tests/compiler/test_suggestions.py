"""Changes that make intractable problems tractable: each is applied and compiled again, and does what it says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import alignkit as ak
from alignkit.compiler import plan, suggestions as module
from alignkit.compiler.composition import compose
from alignkit.compiler.plan import analyse, suggestions_for
from alignkit.compiler.suggestions import Judgement, suggest
from alignkit.compiler.summands import summands_of
from alignkit.errors import (
    AlignkitError,
    BackendRefusedError,
    BackendUnavailableError,
    DimensionError,
    IntractableError,
    UnboundedTransportError,
)
from alignkit.expressions import Parameter

D = 5
X = ak.Variable((D,))
GENERATOR = np.random.default_rng(0)
B, WIDE = GENERATOR.normal(size=(2, D)), GENERATOR.normal(size=(4, D))


def zigzag(points):
    """Of Lipschitz constant √2, known here as one of 1e6: too much to search with."""
    return np.sin(points).sum(axis=1)


ROUGH = ak.lipschitz(zigzag, 1e6, B @ X)
MEAN = np.arange(1.0, D + 1.0)
LAWS = {
    "Gaussian": ak.base.Gaussian(MEAN, 0.2),
    "denoiser": ak.base.Denoiser(
        ak.base.Gaussian(np.zeros(D), 1.0).denoise, (D,), sigma_min=0.01, sigma_max=50.0, tail="bounded", name="net"
    ),
}
POINTS = GENERATOR.normal(size=(200, D)) * 3

INTRACTABLE = {
    "concave": -ak.norm1(X),
    "concave beside affine": ak.sum(X) - ak.square(X[0] - 7.0),
    "one summand bent the wrong way": ak.square(X[0]) - ak.norm1(X[1:]) + X[2],
    "two of them": ak.square(X[0]) - ak.abs(X[1]) - ak.huber(X[2]) + ak.norm2(B @ X),
    "weights of both signs": ak.inner(np.array([1.0, -1.0, 2.0, 0.0, -0.5]), ak.square(X)),
    "not monotone inside": ak.square(ak.abs(X[0]) - 1.0) - ak.norm1(X),
    "too many features": ak.norm2(WIDE @ X) - ak.abs(X[0]),
    "many small features": ak.abs(X[0]) + ak.abs(X[1] - 1.0) + ak.abs(X[2]) + ak.abs(X[3] - 2.0),
    "steep": 3 * ak.square(X[0]) + ak.min(B @ X),
    "steep and kinked": ak.square(X[0]) + ak.norm1(X),
    "bent more than λ": 4 * ak.huber(X[0]) + 4 * ak.huber(X[1]) + 4 * ak.huber(X[2]) + 4 * ak.huber(X[3]),
}
CLOSENESS = {"KL": ak.KL(weight=1.0), "Wasserstein": ak.Wasserstein(weight=1.0)}
CASES = [
    pytest.param(reward, closeness, law, id=f"{name}-{kind}-{law_name}")
    for name, reward in INTRACTABLE.items()
    for kind, closeness in CLOSENESS.items()
    for law_name, law in LAWS.items()
]


def suggested(reward, base, closeness):
    diagnosis, verdicts = analyse(reward, compose(reward), base, closeness)
    return suggestions_for(diagnosis, verdicts, base)


class TestTheyWork:
    @pytest.mark.parametrize(("reward", "closeness", "law"), CASES)
    def test_the_changed_problem_compiles_as_promised(self, reward, closeness, law):
        problem = ak.Problem(reward, law, closeness)
        found = suggested(reward, law, closeness)
        if problem.is_tractable():
            assert found == ()
            return
        for suggestion in found:
            changed = ak.Problem(suggestion.reward, law, suggestion.closeness)
            assert changed.is_tractable() == suggestion.is_served
            if suggestion.is_served:
                made = changed.compile()
                assert (made.route, made.backend) == (suggestion.judgement.route, suggestion.judgement.backend)
            else:
                with pytest.raises((BackendUnavailableError, BackendRefusedError), match=suggestion.judgement.route):
                    changed.compile()
        with pytest.raises(AlignkitError) as caught:
            problem.compile()
        assert {str(suggestion) for suggestion in found} <= set(caught.value.ways_out)

    @pytest.mark.parametrize(("reward", "closeness", "law"), CASES)
    def test_the_smallest_come_first_and_touch_what_they_say(self, reward, closeness, law):
        found = suggested(reward, law, closeness)
        touched = [suggestion.touched for suggestion in found]
        assert touched == sorted(touched) and len(found) <= 6
        assert len({suggestion.change for suggestion in found}) == len(found)
        terms = summands_of(reward).terms
        for suggestion in found:
            if suggestion.closeness is not closeness:
                assert suggestion.reward is reward and suggestion.touched == 0
            if suggestion.change.startswith("Drop"):
                gone = reward.value(POINTS) - suggestion.reward.value(POINTS)
                assert any(
                    np.allclose(gone, sum(terms[at].value(POINTS) for at in chosen))
                    for chosen in subsets(len(terms), suggestion.touched)
                )
            if suggestion.change.startswith("Flip the sign of the reward"):
                np.testing.assert_allclose(suggestion.reward.value(POINTS), -reward.value(POINTS))
            elif suggestion.change.startswith("Flip"):
                twice = reward.value(POINTS) - suggestion.reward.value(POINTS)
                assert any(
                    np.allclose(twice, 2 * sum(terms[at].value(POINTS) for at in chosen))
                    for chosen in subsets(len(terms), suggestion.touched)
                )

    @pytest.mark.parametrize(("reward", "closeness", "law"), CASES)
    def test_tangents_touch_where_they_say_and_bound_what_they_replace(self, reward, closeness, law):
        point = MEAN if law is LAWS["Gaussian"] else np.zeros(D)
        for suggestion in suggested(reward, law, closeness):
            if suggestion.change.startswith("Replace"):
                np.testing.assert_allclose(suggestion.reward.value(point), reward.value(point), rtol=1e-9, atol=1e-9)
                excess = suggestion.reward.value(POINTS) - reward.value(POINTS)
                # A tangent lies above what is concave and below what is convex; here one kind is replaced at a time.
                assert (excess >= -1e-9).all() or (excess <= 1e-9).all()


def subsets(count, size):
    return itertools.combinations(range(count), size)


class TestWhatIsFound:
    def changes(self, name, kind, law="Gaussian"):
        return {one.change: one for one in suggested(INTRACTABLE[name], LAWS[law], CLOSENESS[kind])}

    def find(self, changes, start):
        (found,) = [change for change in changes if change.startswith(start)]
        return changes[found]

    def test_concave_rewards_under_kl_go_to_wasserstein(self):
        changes = self.changes("concave", "KL")
        found = self.find(changes, "ak.Wasserstein(weight=1) in place of KL")
        assert found.is_served and found.judgement.route == "concave proximal transport"
        assert str(self.find(changes, "Flip the sign of the reward").reward) == "norm1(x)"

    def test_the_summand_to_blame_is_named(self):
        changes = self.changes("one summand bent the wrong way", "KL")
        assert str(self.find(changes, "Drop -norm1(x[1:])").reward) == "square(x[0]) + x[2]"
        assert self.find(changes, "Replace -norm1(x[1:]) by its tangent at x0 = the mean of 'Gaussian'").touched == 1
        under_transport = self.changes("one summand bent the wrong way", "Wasserstein")
        assert self.find(under_transport, "Drop square(x[0])").is_served

    def test_all_that_offends_changes_together(self):
        changes = self.changes("two of them", "KL")
        found = self.find(changes, "Drop -abs(x[1]) and -huber(x[2])")
        assert found.touched == 2 and str(found.reward) == "square(x[0]) + norm2([2×5 constant] @ x)"

    def test_the_critical_weight_is_stated_and_its_neighbour_checked(self):
        changes = self.changes("steep", "Wasserstein")
        found = self.find(changes, "ak.Wasserstein(weight=6.06): raise λ above its critical value 6")
        assert found.closeness.weight == 6.06 and found.is_served
        below = ak.Problem(INTRACTABLE["steep"], LAWS["Gaussian"], ak.Wasserstein(weight=5.99))
        with pytest.raises(UnboundedTransportError):
            below.compile()

    def test_the_critical_weight_of_piecewise_quadratics(self):
        found = self.find(self.changes("bent more than λ", "Wasserstein"), "ak.Wasserstein(weight=8.08)")
        assert "critical value 8" in found.change and found.is_served
        assert not ak.Problem(found.reward, LAWS["Gaussian"], ak.Wasserstein(weight=7.99)).is_tractable()

    def test_where_a_larger_weight_does_not_help_it_is_not_suggested(self):
        assert not any("raise λ" in change for change in self.changes("steep and kinked", "Wasserstein"))

    def test_no_single_summand_is_named_where_one_is_not_enough(self):
        changes = self.changes("weights of both signs", "KL")
        assert not any(change.startswith("Drop") for change in changes)
        replaced = self.find(changes, "Replace")
        np.testing.assert_allclose(
            replaced.reward.value(POINTS) >= INTRACTABLE["weights of both signs"].value(POINTS) - 1e-9, True
        )

    def test_a_feature_less_suffices_where_only_the_dimension_is_in_the_way(self):
        reward = INTRACTABLE["many small features"]
        with pytest.raises(DimensionError) as caught:
            ak.Problem(reward, LAWS["Gaussian"], CLOSENESS["Wasserstein"]).compile()
        assert any(way.startswith("Drop abs(x[0])") for way in caught.value.ways_out)
        changes = self.changes("many small features", "Wasserstein")
        assert self.find(changes, "Drop abs(x[0])").judgement.route == "Lipschitz proximal transport"

    def test_flat_tangents_are_no_suggestion(self):
        base = ak.base.Gaussian(np.zeros(D), 1.0)
        changes = [one.change for one in suggested(ak.sum(X) - ak.sum_squares(X), base, ak.KL(weight=1.0))]
        assert changes and not any(change.startswith("Replace") for change in changes)


class TestTheSearch:
    def count(self, reward, closeness, judgement=None):
        asked = []

        def judge(changed, other):
            asked.append((changed, other))
            return judgement

        diagnosis, _ = analyse(reward, compose(reward), LAWS["Gaussian"], closeness)
        return suggest(diagnosis, LAWS["Gaussian"], judge), asked

    @pytest.mark.parametrize("closeness", CLOSENESS.values(), ids=CLOSENESS)
    @pytest.mark.parametrize("count", [1, 4, 12, 60])
    def test_it_is_bounded(self, closeness, count):
        reward = ak.sum(X)
        for at in range(count):
            reward = reward + (-1) ** at * ak.square(ak.abs(X[at % D]) - at)
        found, asked = self.count(reward, closeness)
        assert found == () and 1 <= len(asked) <= 30

    def test_changes_of_more_summands_are_not_tried_where_fewer_do(self):
        closeness = CLOSENESS["Wasserstein"]
        found, _ = self.count(INTRACTABLE["two of them"], closeness, Judgement("some route", "some backend"))
        assert {one.touched for one in found if "the reward" not in one.change} <= {0, 1}

    def test_large_rewards_are_not_composed_again(self, monkeypatch):
        monkeypatch.setattr(module, "_LARGEST_FACTORISATION", 10)
        found, asked = self.count(ak.square(X[0]) - ak.norm1(X[1:4]), CLOSENESS["KL"])
        assert found == () and asked == []
        with pytest.raises(IntractableError) as caught:
            ak.Problem(ak.square(X[0]) - ak.norm1(X[1:4]), LAWS["Gaussian"], CLOSENESS["KL"]).compile()
        assert caught.value.ways_out

    def test_a_problem_that_only_lacks_a_backend_is_told_what_would_be_solved(self):
        with pytest.raises(BackendRefusedError) as caught:
            ak.Problem(ROUGH, LAWS["Gaussian"], CLOSENESS["Wasserstein"]).compile()
        assert caught.value.ways_out
        assert all("nothing installed solves it yet" not in way for way in caught.value.ways_out)

    def test_is_tractable_looks_for_no_ways_out(self, monkeypatch):
        searches = []
        monkeypatch.setattr(plan, "suggest", lambda *arguments, **options: searches.append(1) or ())
        problem = ak.Problem(-ak.norm1(X), LAWS["Gaussian"], CLOSENESS["KL"])
        assert not problem.is_tractable() and not searches
        with pytest.raises(IntractableError):
            problem.compile()
        assert searches

    def test_parameters_are_taken_at_their_present_values(self):
        scale = Parameter(value=1.0, nonneg=True, name="scale")
        reward = scale * ak.square(X[0])
        for value, raised in ((1.0, 2.02), (10.0, 20.2)):
            scale.value = value
            found = suggested(reward, LAWS["Gaussian"], ak.Wasserstein(weight=Parameter(value=1.0, name="λ")))
            assert raised in [one.closeness.weight for one in found]
