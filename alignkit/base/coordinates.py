"""What networks are given and what they return: changes of coordinates to D(x, σ) = E[x₀ | x_σ = x].

Every convention noises alike up to scale: y = c·x_σ = c·x₀ + cσ·z with x_σ = x₀ + σz and z standard normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from alignkit.errors import ParameterError

__all__ = ["Convention", "Coordinates", "Prediction"]

#: What a network returns; see `Convention`.
Prediction = Literal["x0", "epsilon", "score", "v", "velocity"]

#: What a network is given; see `Convention`.
Coordinates = Literal["sigma", "variance_preserving", "flow"]


@dataclass(frozen=True)
class Convention:
    """What a network is given and what it returns.

    It is given y = c·x_σ and a number that says the noise level, a row each:

    | coordinates | y | the number | used by |
    | --- | --- | --- | --- |
    | "sigma" | x_σ | σ | EDM, k-diffusion (arXiv 2206.00364) |
    | "variance_preserving" | x_σ/√(1 + σ²) = αx₀ + sz | σ | DDPM, DDIM (arXiv 2006.11239) |
    | "flow" | x_σ/(1 + σ) = (1 − t)x₀ + tz | t = σ/(1 + σ) | flow matching (arXiv 2210.02747) |

    with α = 1/√(1 + σ²) and s = σ/√(1 + σ²). It returns, whatever the coordinates, the conditional expectation of

    | prediction | which is | x₀ from it |
    | --- | --- | --- |
    | "x0" | x₀ | itself |
    | "epsilon" | z | x − σε |
    | "score" | ∇ log of the density of y, at y | x + cσ²·score |
    | "v" | αz − s·x₀ (arXiv 2202.00512) | (x − σ√(1 + σ²)·v)/(1 + σ²) |
    | "velocity" | z − x₀ = dy/dt along a path of flow matching | (x − σu)/(1 + σ) |

    Signs: v and the velocity point from data to noise. Negate what a network returns that points to the data, and
    give it 1 − t where its time runs from noise to data.

    Arguments:
        prediction: what the network returns.
        coordinates: what it is given.

    Raises:
        ParameterError: either is unknown.

    Example:
        >>> import numpy as np
        >>> flow = Convention("velocity", "flow")
        >>> y, t = flow.arguments(np.array([[6.0]]), np.array([2.0]))
        >>> y.tolist(), t.round(3).tolist()
        ([[2.0]], [0.667])
        >>> flow.denoised(np.array([[1.5]]), np.array([[6.0]]), np.array([2.0])).tolist()
        [[1.0]]
    """

    prediction: Prediction = "x0"
    coordinates: Coordinates = "sigma"

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ParameterError(
                f"Unknown prediction {self.prediction!r}.",
                ways_out=[
                    f"Use one of {', '.join(map(repr, get_args(Prediction)))}.",
                    "Wrap other parametrisations in a callable that returns x₀.",
                ],
            )
        if self.coordinates not in get_args(Coordinates):
            raise ParameterError(
                f"Unknown coordinates {self.coordinates!r}.",
                ways_out=[
                    f"Use one of {', '.join(map(repr, get_args(Coordinates)))}.",
                    "Wrap a network with others in a callable of (x_σ, σ).",
                ],
            )

    def arguments(self, x: Any, sigma: Any) -> tuple[Any, Any]:
        """What the network is called with at x_σ = x.

        Arguments:
            x: (n, *shape), in units of x.
            sigma: (n,), the noise scale of each row, in units of x.

        Returns:
            y, (n, *shape), and the number of its noise level, (n,).
        """
        if self.coordinates == "sigma":
            return x, sigma
        scale = _per_row(self._scale(sigma), x)
        return scale * x, sigma / (1 + sigma) if self.coordinates == "flow" else sigma

    def denoised(self, output: Any, x: Any, sigma: Any) -> Any:
        """E[x₀ | x_σ = x] from what the network returned.

        Arguments:
            output: (n, *shape), what it returned.
            x, sigma: as for `arguments`.

        Returns:
            (n, *shape), in units of x.
        """
        if self.prediction == "x0":
            return output
        keep, gain = self._factors(sigma)
        return self._kept(keep, x) + _per_row(gain, x) * output

    def _scale(self, sigma: Any) -> Any:
        """c, as many as sigma, where it is not 1."""
        return 1 / (1 + sigma) if self.coordinates == "flow" else (1 + sigma**2) ** -0.5

    @staticmethod
    def _kept(keep: Any, x: Any) -> Any:
        return x if keep is None else _per_row(keep, x) * x

    def _factors(self, sigma: Any) -> tuple[Any, Any]:
        """The factors of x, where it is not 1, and of the output in x₀."""
        if self.prediction == "epsilon":
            return None, -sigma
        if self.prediction == "score":
            return None, sigma**2 if self.coordinates == "sigma" else self._scale(sigma) * sigma**2
        if self.prediction == "v":
            return 1 / (1 + sigma**2), -sigma * (1 + sigma**2) ** -0.5
        return 1 / (1 + sigma), -sigma / (1 + sigma)


def _per_row(factor: Any, x: Any) -> Any:
    return factor.reshape((-1,) + (1,) * (x.ndim - 1))
