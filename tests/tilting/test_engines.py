"""The choice between engines."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.errors import ParameterError
from alignkit.tilting.annealed import AnnealedTilt
from alignkit.tilting.direct import DirectTilt
from alignkit.tilting.engines import choose_engine, fit_tilt
from alignkit.tilting.exact import ExactTiltSampler
from alignkit.tilting.target import TiltTarget
from alignkit_torch.tilt_sampler import TorchTiltSampler

GAUSSIAN = ak.base.Gaussian([0.0, 0.0], 1.0)
CALLS: list[int] = []


def counted(x, sigma):
    CALLS.append(1)
    return GAUSSIAN.denoise(x, sigma)


def denoiser(exact):
    return ak.base.Denoiser(counted, (2,), sigma_min=0.01, sigma_max=50.0, exact=exact, name="net")


def target(base):
    return TiltTarget(TiltProgram(base, np.ones((1, 2)), np.ones((1, 1)), 100), None, 1.0, np.ones(1))


def seen_through(base, nonlinear):
    """A target of f over the first entries of x."""
    k = nonlinear.variables()[0].size
    directions = np.vstack([np.eye(k, base.ambient), np.zeros(base.ambient)])
    return TiltTarget(TiltProgram(base, directions, np.eye(1, k + 1, k), 100), nonlinear, 1.0, np.ones(1))


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@pytest.mark.parametrize(
    ("base", "engine", "expected"),
    [
        (GAUSSIAN, "auto", "direct"),
        (GAUSSIAN, "direct", "direct"),
        (GAUSSIAN, "annealed", "annealed"),
        (denoiser(True), "auto", "direct"),
        (denoiser(True), "annealed", "annealed"),
        (denoiser(False), "auto", "annealed"),
        (denoiser(False), "annealed", "annealed"),
    ],
)
def test_exact_laws_go_direct_and_learned_ones_are_annealed(base, engine, expected):
    assert choose_engine(target(base), engine) == expected


@pytest.mark.parametrize("engine", ["smc", "", "Direct", None])
def test_unknown_engines_name_the_known(engine):
    with pytest.raises(ParameterError, match="Unknown engine") as caught:
        choose_engine(target(GAUSSIAN), engine)
    assert "'annealed'" in str(caught.value)


def test_direct_is_refused_on_a_learned_denoiser_before_it_is_called():
    with pytest.raises(ParameterError, match=r"'net' never saw") as caught:
        fit_tilt(target(denoiser(False)), TorchTiltSampler(), engine="direct", seed=0)
    assert any("annealed" in way for way in caught.value.ways_out)
    assert not CALLS


def test_many_dimensions_are_annealed_and_too_many_for_the_direct_engine():
    base = ak.base.Gaussian(np.zeros(5), 0.1)
    wide = seen_through(base, ak.sum_squares(ak.Variable(5)))
    assert choose_engine(wide, "auto") == "annealed"
    assert choose_engine(seen_through(base, ak.sum_squares(ak.Variable(2))), "auto") == "direct"
    with pytest.raises(ParameterError, match="k = 5") as caught:
        choose_engine(wide, "direct")
    assert "sum_squares" in str(caught.value) and any("annealed" in way for way in caught.value.ways_out)


@pytest.mark.parametrize(
    ("base", "sampler", "engine", "kind"),
    [
        (GAUSSIAN, ExactTiltSampler, "auto", DirectTilt),
        (GAUSSIAN, TorchTiltSampler, "auto", DirectTilt),
        (GAUSSIAN, TorchTiltSampler, "annealed", AnnealedTilt),
        (denoiser(False), TorchTiltSampler, "auto", AnnealedTilt),
    ],
)
def test_fits_are_of_the_engines_kind_and_agree_on_log_z(base, sampler, engine, kind):
    fitted = fit_tilt(target(base), sampler(), engine=engine, seed=0)
    assert isinstance(fitted, kind)
    found = fitted.moments.log_partition
    # log Z of N(0, I) at θ = (1, 1) is 1.
    assert abs(found.value - 1.0) < 4 * found.standard_error + 1e-12
