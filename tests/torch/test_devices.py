"""Devices by name, by number and as torch's own objects."""

import pytest
import torch

import alignkit as ak
from alignkit.errors import ParameterError
from alignkit_torch.devices import device_named, float64_device

X = ak.Variable((2,))
PROBLEMS = {
    "KL": ak.Problem(ak.sum(X), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0)),
    "Wasserstein": ak.Problem(-ak.norm1(X), ak.base.Gaussian([0.0, 0.0], 1.0), ak.Wasserstein(weight=1.0)),
}


@pytest.mark.parametrize("find", [device_named, float64_device])
@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_names_and_torch_devices_are_the_same(find, device):
    assert find(device) == torch.device("cpu")


@pytest.mark.parametrize("find", [device_named, float64_device])
@pytest.mark.parametrize("device", ["nope", "cuda:999", 3.5])
def test_what_is_no_device_here_is_refused(find, device):
    with pytest.raises(ParameterError, match="torch cannot use the device"):
        find(device)


@pytest.mark.parametrize("device", ["mps", "mps:0", torch.device("mps")])
def test_a_device_without_float64_gives_way_to_the_cpu(device):
    assert float64_device(device) == torch.device("cpu")


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_take_torch_devices(name):
    assert PROBLEMS[name].solve(seed=0, backend="torch", device=torch.device("cpu")).sample(3, seed=0).shape == (3, 2)
