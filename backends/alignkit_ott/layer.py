"""Transport maps as functions that jax differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignkit.contracts import Floats
from alignkit.transport.derivatives import HostMap, MovedRows
from alignkit_ott.devices import float64_on

__all__ = ["JaxAutodiff", "JaxLayers"]


class JaxAutodiff:
    """Automatic differentiation in float64, whatever jax is set to."""

    def curvature(self, function: Callable[[Any], Any], points: Floats) -> tuple[Floats, Floats, Floats]:
        """Value, gradient and Hessian of a function of rows; see `alignkit.transport.derivatives.Autodiff`."""
        with float64_on():
            rows = jnp.asarray(points)
            slope = jax.grad(lambda rows: function(rows).sum())
            gradient, change = jax.linearize(slope, rows)
            columns = [change(jnp.zeros_like(rows).at[:, place].set(1.0)) for place in range(rows.shape[1])]
            hessian = jnp.stack(columns, axis=2) if columns else jnp.zeros((*rows.shape, 0))
            return np.asarray(function(rows)), np.asarray(gradient), np.asarray(hessian)

    def mixed(
        self,
        function: Callable[..., Any],
        points: Sequence[Floats],
        directions: Sequence[Floats],
        parameters: Sequence[Floats],
    ) -> tuple[Floats, ...]:
        """∂_p d/dε Σ function(points + ε·directions, *parameters); see `alignkit.transport.derivatives.Autodiff`."""
        with float64_on():
            moving, steps = (tuple(jnp.asarray(one) for one in given) for given in (points, directions))

            def along(fixed: tuple[Any, ...]) -> Any:
                return jax.jvp(lambda *moved: function(*moved, *fixed).sum(), moving, steps)[1]

            found = jax.grad(along)(tuple(jnp.asarray(one) for one in parameters))
            return tuple(np.asarray(one) for one in found)


class JaxLayers:
    """What `alignkit.transport.derivatives.Layers` asks for, in jax."""

    autodiff = JaxAutodiff()

    def layer(self, host: HostMap) -> Callable[..., jax.Array]:
        """A function of arrays (x, *values) with a rule for `jax.grad` and `jax.vjp`, also under `jax.jit`.

        Arguments:
            host: the map with its transposed derivative. Where arrays have values it is called directly, and its errors
                come as they are; under a trace by `jax.pure_callback`, and jax wraps its errors.
        """

        def forward(x: Any, *values: Any) -> tuple[Any, ...]:
            moved = host.forward(_on_host(x), *(_on_host(value) for value in values))
            return moved.y, moved.gap, moved.refused

        def pull_back(cotangent: Any, y: Any, gap: Any, refused: Any, x: Any, *values: Any) -> tuple[Floats, ...]:
            moved = MovedRows(_on_host(y), _on_host(gap), np.asarray(refused))
            return host.pull_back(_on_host(x), [_on_host(value) for value in values], moved, _on_host(cotangent))

        def solved(x: jax.Array, *values: jax.Array) -> Any:
            # Half precision tells too little of where a maximiser is.
            wide, rows = jnp.promote_types(x.dtype, jnp.float32), x.shape[:1]
            shapes = _shaped(x.shape, wide), _shaped(rows, wide), _shaped(rows, np.dtype(bool))
            return _called(forward, shapes, x, *values)

        @jax.custom_vjp
        def apply(x: jax.Array, *values: jax.Array) -> jax.Array:
            return solved(x, *values)[0].astype(x.dtype)  # type: ignore[no-any-return]

        def apply_forward(x: jax.Array, *values: jax.Array) -> tuple[jax.Array, Any]:
            moved = solved(x, *values)
            return moved[0].astype(x.dtype), (*moved, x, *values)

        def apply_backward(kept: Any, cotangent: jax.Array) -> Any:
            given = kept[3:]
            shapes = tuple(_shaped(one.shape, one.dtype) for one in given)
            return _called(pull_back, shapes, cotangent, *kept)

        apply.defvjp(apply_forward, apply_backward)

        def layer(x: Any, *values: Any) -> jax.Array:
            return apply(*(_floating(one) for one in (x, *values)))

        return layer


def _shaped(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _on_host(array: Any) -> Floats:
    return np.asarray(array, dtype=np.float64)


def _floating(given: Any) -> jax.Array:
    array = jnp.asarray(given)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _called(function: Callable[..., tuple[Floats, ...]], shapes: Any, *arrays: Any) -> Any:
    """A function of host arrays, now where they have values, else when the trace is run."""

    def host(*arrays: Any) -> tuple[Any, ...]:
        found = function(*arrays)
        return tuple(
            np.asarray(one, dtype=shape.dtype).reshape(shape.shape) for one, shape in zip(found, shapes, strict=True)
        )

    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        return jax.pure_callback(host, shapes, *arrays, vmap_method="sequential")
    return tuple(jnp.asarray(one) for one in host(*arrays))
