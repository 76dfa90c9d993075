"""The value of a parameter: called as that of any expression, and read as an array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from alignkit.expressions.arrays import Array, Floats
from alignkit.expressions.expression import Expression

if TYPE_CHECKING:
    from alignkit.expressions.leaf import Parameter

__all__ = ["PresentValue"]


class PresentValue(NDArrayOperatorsMixin):
    """What `parameter.value` is: an array to numpy and to arithmetic, and a function like `Expression.value`.

    Arguments:
        parameter: whose value it is, at the time when it is read.

    While there is none, reading it raises a ParameterError that names the parameter.
    """

    def __init__(self, parameter: Parameter) -> None:
        self._parameter = parameter

    def __call__(self, x: Any = None, *, parameters: Mapping[Parameter, Array] | None = None) -> Array:
        """Evaluate it; see `Expression.value`."""
        return Expression.value(self._parameter, x, parameters=parameters)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.array(self._parameter.dense(), dtype=dtype, copy=copy)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        read = (one._parameter.dense() if isinstance(one, PresentValue) else one for one in inputs)
        return getattr(function, method)(*read, **options)

    def __getitem__(self, key: Any) -> Any:
        return self._parameter.dense()[key]

    def __len__(self) -> int:
        return len(self._parameter.dense())

    def __float__(self) -> float:
        return float(self._parameter.dense())

    def __getattr__(self, name: str) -> Any:
        # What copies and notebooks look for is none of an array's.
        if name.startswith("_"):
            raise AttributeError(f"the value of a parameter has no attribute {name!r}")
        return getattr(self._parameter.dense(), name)

    def __repr__(self) -> str:
        return f"no value of {self._parameter.name} yet" if self._parameter.is_unset else repr(self._parameter.dense())
