"""Arrays of any library on the host."""

import numpy as np
import pytest
import torch

from alignkit.expressions.arrays import to_numpy


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32, torch.float64])
def test_the_host_has_tensors_in_their_own_dtype(dtype):
    tensor = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to(dtype)
    found = to_numpy(tensor)
    assert str(found.dtype) == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(found, [[0, 1], [1, 0]])


def test_what_numpy_has_no_dtype_for_is_widened_and_histories_stay_behind():
    tensor = torch.tensor([0.5, -2.0], dtype=torch.bfloat16, requires_grad=True)
    found = to_numpy(2 * tensor)
    assert found.dtype == np.float64 and found.tolist() == [1.0, -4.0]
