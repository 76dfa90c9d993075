"""OTT's translation-invariant costs as alignkit's, where alignkit has no equal of its own.

jax is imported by the methods that compute with it, so that looking at a cost costs no import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_torch_array

from alignkit.contracts import Floats
from alignkit.transport.costs import Cost

__all__ = ["RegularizedCost", "TranslationInvariantCost"]

#: Batches are padded to powers of 2 from here on, so that few shapes are compiled.
_FEWEST_ROWS = 16


@dataclass(frozen=True, eq=False, repr=False)
class TranslationInvariantCost(Cost):
    """c(x, y) = h(y − x) for the h of an OTT cost that is convex and even, with h* by its Legendre transform.

    Bounds of rows rest on h*: they are as right as the Legendre transform, or the proximal map, that the cost brings.

    Arguments:
        given: an `ott.geometry.costs.TICost` with `h` and `h_legendre`.
        size: the number of entries it is for; None for any.
    """

    given: Any
    size: int | None = None

    @property
    def formula(self) -> str:  # type: ignore[override]
        """OTT's class, as h is a function of the engine's own."""
        return f"h(x − y) of OTT's {type(self.given).__name__}"

    @property
    def ambient(self) -> int | None:
        """The number of entries it is for; None for any."""
        return self.size

    def of_displacement(self, displacement: Any) -> Any:
        """h at each row, (n, d) to (n,), by jax in float64 for arrays of numpy and torch."""
        if is_jax_array(displacement):
            import jax

            return jax.vmap(self.given.h)(displacement)
        if is_torch_array(displacement):
            found = self._of_rows(displacement.detach().cpu().numpy())
            xp = array_namespace(displacement)
            return xp.asarray(found, dtype=displacement.dtype, device=displacement.device)
        return self._of_rows(displacement)

    def conjugate(self, dual: Floats) -> Floats:
        """h*(w) of each row, (n, d) to (n,)."""
        return self._conjugate_of_rows(dual)

    def best_displacement(self, dual: Floats) -> Floats:
        """∇h*(w) of each row, (n, d)."""
        return self._best_of_rows(dual)

    @cached_property
    def _of_rows(self) -> Callable[[Floats], Floats]:
        return _on_host(self.given.h)

    @cached_property
    def _conjugate_of_rows(self) -> Callable[[Floats], Floats]:
        return _on_host(self.given.h_legendre)

    @cached_property
    def _best_of_rows(self) -> Callable[[Floats], Floats]:
        import jax

        return _on_host(jax.grad(self.given.h_legendre))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.formula})"

    def __getstate__(self) -> dict[str, Any]:
        return {"given": self.given, "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False, repr=False)
class RegularizedCost(TranslationInvariantCost):
    """h(δ) = (ρ/2)‖δ‖² + γ·φ(δ) of OTT's `RegTICost`, ρ > 0, with h* by the proximal map of φ.

    argmax_δ ⟨w, δ⟩ − h(δ) is prox_{(γ/ρ)φ}(w/ρ). OTT 0.6.0 takes prox_{γφ}(w), which is that for ρ = 1 alone, so that
    neither its `h_legendre` nor its `twist_operator` is used. Source: N. Parikh, S. Boyd, "Proximal algorithms", 2014,
    section 2.2.
    """

    @property
    def formula(self) -> str:  # type: ignore[override]
        """With OTT's name of φ."""
        name = type(self.given.regularizer.f).__name__
        half = float(self.given.rho) / 2.0
        shown = {0.5: "½", 1.0: ""}.get(half, f"{half:g}")
        return f"{shown}‖x − y‖² + {float(self.given.lam):g}·{name}(x − y)"

    def proximal(self, rows: Any, step: Any) -> Any:
        """argmin_δ step·h(δ) + ½‖δ − row‖² of each row.

        Arguments:
            rows: (n, d), jax.
            step: (n, 1).

        Returns:
            (n, d).
        """
        import jax

        scale = 1.0 / (1.0 + step * self.given.rho)
        weight = (step * scale * self.given.lam)[:, 0]
        return jax.vmap(lambda row, share: _prox(self.given.regularizer.f, row, share))(scale * rows, weight)

    def _best(self, dual: Any) -> Any:
        rho = self.given.rho
        return _prox(self.given.regularizer.f, dual / rho, self.given.lam / rho)

    @cached_property
    def _conjugate_of_rows(self) -> Callable[[Floats], Floats]:
        def conjugate(dual: Any) -> Any:
            best = self._best(dual)
            return (dual * best).sum() - self.given.h(best)

        return _on_host(conjugate)

    @cached_property
    def _best_of_rows(self) -> Callable[[Floats], Floats]:
        return _on_host(self._best)


def _prox(regularizer: Any, row: Any, weight: Any) -> Any:
    """argmin_x weight·φ(x) + ½‖x − row‖²."""
    from ott.geometry import regularizers

    if isinstance(regularizer, regularizers.STVS):
        return _prox_stvs(regularizer.gamma, row, weight)
    return regularizer.prox(row, weight)


def _prox_stvs(gamma: Any, row: Any, weight: Any) -> Any:
    """That of OTT's STVS, which is γ²Σ(u + ½ − ½e^{−2u}) with u = asinh(|x|/2γ), for weights up to 2.

    With t = eᵘ its derivative at x = γ(t − 1/t) is γ/t, so that γt + (weight − 1)γ/t = |row|. OTT's own map multiplies
    γ by the weight, which is right for weight 1 alone.
    """
    import jax.numpy as jnp

    size = jnp.abs(row)
    moves = size > weight * gamma
    safe = jnp.where(moves, size, 2.0 * gamma)
    root = jnp.sqrt(jnp.maximum(safe**2 - 4.0 * gamma**2 * (weight - 1.0), 0.0))
    t = (safe + root) / (2.0 * gamma)
    return jnp.where(moves, jnp.sign(row) * gamma * (t - 1.0 / t), 0.0)


def _on_host(of_row: Callable[[Any], Any]) -> Callable[[Floats], Floats]:
    """A jax function of one row as one of numpy rows, in float64."""
    import jax

    from alignkit_ott.devices import float64_on

    compiled = jax.jit(jax.vmap(of_row))

    def of_rows(rows: Floats) -> Floats:
        count = len(rows)
        padded = np.zeros((max(_FEWEST_ROWS, 1 << max(count - 1, 0).bit_length()), rows.shape[1]))
        padded[:count] = rows
        with float64_on(jax.devices("cpu")[0]):
            return np.array(compiled(padded), dtype=np.float64)[:count]

    return of_rows
