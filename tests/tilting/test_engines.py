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
from alignkit_torch.tilt_sampler import TorchTiltSampler

GAUSSIAN = ak.base.Gaussian([0.0, 0.0], 1.0)
CALLS: list[int] = []


def counted(x, sigma):
    CALLS.append(1)
    return GAUSSIAN.denoise(x, sigma)


def denoiser(exact):
    return ak.base.Denoiser(counted, (2,), sigma_min=0.01, sigma_max=50.0, exact=exact, name="net")


def program(base):
    return TiltProgram(base, np.ones((1, 2)), np.ones((1, 1)), 100)


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
    assert choose_engine(program(base), engine) == expected


@pytest.mark.parametrize("engine", ["smc", "", "Direct", None])
def test_unknown_engines_name_the_known(engine):
    with pytest.raises(ParameterError, match="Unknown engine") as caught:
        choose_engine(program(GAUSSIAN), engine)
    assert "'annealed'" in str(caught.value)


def test_direct_is_refused_on_a_learned_denoiser_before_it_is_called():
    with pytest.raises(ParameterError, match=r"'net' never saw") as caught:
        fit_tilt(program(denoiser(False)), TorchTiltSampler(), engine="direct", seed=0)
    assert any("annealed" in way for way in caught.value.ways_out)
    assert not CALLS


def test_annealing_needs_a_denoising_backend():
    with pytest.raises(ParameterError, match="'exact' draws in closed form"):
        fit_tilt(program(GAUSSIAN), ExactTiltSampler(), engine="annealed", seed=0)


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
    fitted = fit_tilt(program(base), sampler(), engine=engine, seed=0)
    assert isinstance(fitted, kind)
    found = fitted.moments.log_partition
    # log Z of N(0, I) at θ = (1, 1) is 1.
    assert abs(found.value - 1.0) < 4 * found.standard_error + 1e-12
