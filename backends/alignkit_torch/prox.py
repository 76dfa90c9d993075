"""The closed-form proximal solver: quadratic rewards, and separable piecewise-quadratic ones.

Recognition is numpy's work, so that a bid costs no import of torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import Bid, Guarantee, ProxProblem, ProxSession, Refusal
from alignkit.expressions.splitting import Split, split
from alignkit.transport.separable import Inseparable, Separable, separable_form

__all__ = ["TorchProxSolver"]

_PROXIMAL_MAPS = Citation(
    key="parikh_boyd_2014",
    title="Proximal algorithms",
    year=2014,
    authors=("N. Parikh", "S. Boyd"),
    venue="Foundations and Trends in Optimization 1(3), 127–239",
    kind="article",
    doi="10.1561/2400000003",
)

#: Measured on one core at n = 10⁴, k = 4 … 784: seconds a row, a row's entry, and a row's multiplication.
_SECONDS_PER_ROW = 4e-8
_SECONDS_PER_ENTRY = 4e-8
_SECONDS_PER_PRODUCT = 1.3e-10
_SECONDS_PER_FACTOR = 4e-10
_SECONDS_TO_OPEN = 1e-3
#: Up to this k a dense product costs less than a binary search an entry.
_SMALL_DIMENSION = 64
#: λ must exceed λ_max(H) by this, relative to λ, for the solve to be accurate.
_MARGIN = 1e-10


class TorchProxSolver:
    """Exact proximal maps in float64 on the CPU or a CUDA device, batched.

    It takes quadratic f with λI − H ≻ 0, and f(z) = Σ p_i(z_i) with p_i − (λ/2)z² strictly concave and piecewise
    quadratic. The gap of a row bounds its rounding.

    Example:
        ```python
        session = TorchProxSolver().open(ProxProblem(-ak.norm1(w), weight=1.0, dimension=3, rows=100))
        session.solve(points).maximiser       # soft thresholding
        ```
    """

    name = "torch"

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a closed form, or say which summand has none."""
        parts = split(problem.nonlinear)
        form = _closed_form(parts, problem.weight)
        if isinstance(form, Inseparable):
            return Refusal(self.name, form.reason)
        rows, k = problem.rows, problem.dimension
        if isinstance(form, Separable):
            seconds = _SECONDS_TO_OPEN + rows * (_SECONDS_PER_ROW + k * _SECONDS_PER_ENTRY)
            method = "separable closed form"
        else:
            seconds = _SECONDS_TO_OPEN + _SECONDS_PER_FACTOR * k**3
            seconds += rows * (_SECONDS_PER_ROW + 2 * k**2 * _SECONDS_PER_PRODUCT)
            method = "quadratic closed form"
        return Bid(self.name, method, Guarantee.EXACT, seconds, citations=(_PROXIMAL_MAPS,))

    def open(self, problem: ProxProblem) -> ProxSession:
        """Factorise or tabulate once, for any number of batches.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        from alignkit_torch.devices import float64_device
        from alignkit_torch.prox_closed import QuadraticProx, SeparableProx

        parts = split(problem.nonlinear)
        form = _closed_form(parts, problem.weight)
        device = float64_device(problem.device)
        if isinstance(form, Inseparable):
            raise ValueError(f"The torch backend refuses this problem: {form.reason}.")
        if isinstance(form, Separable):
            return SeparableProx(form, problem.weight, device)
        return QuadraticProx(form.quadratic, problem.weight, device)


def _closed_form(parts: Split, weight: float) -> Split | Separable | Inseparable:
    """The parts themselves where they are a dominated quadratic, else their separable form, or why neither holds."""
    quadratic = not parts.terms and parts.has_small_hessian
    if quadratic and parts.dimension <= _SMALL_DIMENSION:
        return _dominated(parts, weight)
    form: Any = separable_form(parts)
    if isinstance(form, Separable):
        obstacle = form.obstacle(weight)
        return form if obstacle is None else Inseparable(f"the objective is not concave: {obstacle}")
    return _dominated(parts, weight) if quadratic else form


def _dominated(parts: Split, weight: float) -> Split | Inseparable:
    if parts.critical_weight < weight * (1 - _MARGIN) and np.isfinite(parts.quadratic.matrix).all():
        return parts
    return Inseparable(f"λ = {weight:.6g} does not exceed the largest curvature, {parts.critical_weight:.6g}")
