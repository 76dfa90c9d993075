"""Transport maps as functions that torch differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from alignkit.contracts import Floats
from alignkit.transport.derivatives import HostMap

__all__ = ["TorchAutodiff", "TorchLayers"]


PullBack = Callable[[Floats, Floats, Floats], Floats]


class TorchAutodiff:
    """Automatic differentiation on the CPU in float64."""

    def curvature(self, function: Callable[[Any], Any], points: Floats) -> tuple[Floats, Floats, Floats]:
        """Value, gradient and Hessian of a function of rows; see `alignkit.transport.derivatives.Autodiff`."""
        with torch.enable_grad():
            rows = _leaf(points)
            value = function(rows)
            gradient = _derivative(value.sum(), rows, create_graph=True)
            columns = [_derivative(gradient[:, place].sum(), rows) for place in range(rows.shape[1])]
        hessian = torch.stack(columns, dim=1) if columns else rows.new_zeros((*rows.shape, 0))
        return value.detach().numpy(), gradient.detach().numpy(), hessian.detach().numpy()

    def mixed(
        self,
        function: Callable[..., Any],
        points: Sequence[Floats],
        directions: Sequence[Floats],
        parameters: Sequence[Floats],
    ) -> tuple[Floats, ...]:
        """∂_p d/dε Σ function(points + ε·directions, *parameters); see `alignkit.transport.derivatives.Autodiff`."""
        with torch.enable_grad():
            moving, fixed = [_leaf(one) for one in points], [_leaf(one) for one in parameters]
            total = function(*moving, *fixed).sum()
            along = sum(
                (_derivative(total, one, create_graph=True) * torch.from_numpy(np.array(direction))).sum()
                for one, direction in zip(moving, directions, strict=True)
            )
            return tuple(_derivative(along, one).numpy() for one in fixed)


def _leaf(host: Floats) -> torch.Tensor:
    return torch.from_numpy(np.array(host, dtype=np.float64)).requires_grad_()


def _derivative(total: Any, of: torch.Tensor, *, create_graph: bool = False) -> torch.Tensor:
    """d total/d of; 0 where it does not depend on it."""
    if not getattr(total, "requires_grad", False):
        return torch.zeros_like(of)
    (found,) = torch.autograd.grad(total, of, create_graph=create_graph, retain_graph=True, allow_unused=True)
    return torch.zeros_like(of) if found is None else found


class TorchLayers:
    """What `alignkit.transport.derivatives.Layers` asks for, in torch."""

    autodiff = TorchAutodiff()

    def attach(self, x: torch.Tensor, moved: torch.Tensor, pull_back: PullBack) -> torch.Tensor:
        """T(x) with x as its origin, where torch records one.

        Arguments:
            x: (n, *shape).
            moved: T(x), of x's shape, dtype and device.
            pull_back: from x, T(x) and ȳ to x̄, on the host.
        """
        if not torch.is_grad_enabled():
            return moved
        return _Attached.apply(x, moved, pull_back)  # type: ignore[no-any-return, no-untyped-call]

    def layer(self, host: HostMap) -> Callable[..., torch.Tensor]:
        """A function of tensors (x, *values) that torch differentiates once.

        Arguments:
            host: the map with its transposed derivative.
        """

        def layer(x: Any, *values: Any) -> torch.Tensor:
            rows = torch.as_tensor(x)
            rows = rows if rows.is_floating_point() else rows.double()
            return _Applied.apply(host, rows, *(torch.as_tensor(value) for value in values))  # type: ignore[no-any-return, no-untyped-call]

        return layer


def _on_host(tensor: torch.Tensor) -> Floats:
    return tensor.detach().to("cpu", torch.float64).numpy()


def _like(host: Floats, tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(host)).to(tensor.device, tensor.dtype).reshape(tensor.shape)


class _Attached(torch.autograd.Function):
    """Rows that were moved already."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, moved: torch.Tensor, pull_back: PullBack) -> torch.Tensor:
        ctx.pull_back, found = pull_back, moved.detach()
        ctx.save_for_backward(x, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, moved = ctx.saved_tensors
        return _like(ctx.pull_back(_on_host(x), _on_host(moved), _on_host(cotangent)), x), None, None


class _Applied(torch.autograd.Function):
    """Rows moved at given values."""

    @staticmethod
    def forward(ctx: Any, host: HostMap, x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        given = tuple(_on_host(value) for value in values)
        ctx.host, ctx.given = host, given
        ctx.save_for_backward(x, *values)
        ctx.moved = host.forward(_on_host(x), *given)
        return _like(ctx.moved.y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *values = ctx.saved_tensors
        bars = ctx.host.pull_back(_on_host(x), ctx.given, ctx.moved, _on_host(cotangent))
        return None, *(_like(bar, tensor) for bar, tensor in zip(bars, (x, *values), strict=True))
