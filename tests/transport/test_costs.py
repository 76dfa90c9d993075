import numpy as np
import pytest
import torch

from alignkit.errors import ShapeError
from alignkit.transport.costs import SquaredEuclidean


def test_half_the_squared_distance_of_each_row():
    x, y = np.zeros((2, 2, 2)), np.array([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    np.testing.assert_array_equal(SquaredEuclidean().value(x, y), [12.5, 2.0])


def test_stays_in_the_library_of_its_arguments():
    cost = SquaredEuclidean().value(torch.zeros(1, 2), torch.ones(1, 2))
    assert isinstance(cost, torch.Tensor) and cost.tolist() == [1.0]


@pytest.mark.parametrize(("left", "right"), [((2, 3), (2, 4)), ((3,), (1, 3)), ((), ())])
def test_names_both_shapes(left, right):
    with pytest.raises(ShapeError) as caught:
        SquaredEuclidean().value(np.zeros(left), np.zeros(right))
    assert str(left) in str(caught.value) and str(right) in str(caught.value)


def test_costs_compare_by_value():
    assert SquaredEuclidean() == SquaredEuclidean()
