"""Problems of every route, solved and saved by test_saving.py, and loaded by this module as a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import alignkit as ak

D, ROWS, SEED = 6, 40, 3
RNG = np.random.default_rng(7)
A, SYMMETRIC = RNG.normal(size=(D, D)) / 3, np.eye(D) + 0.3
MEANS = RNG.normal(size=(2, D)) * 1.5
X, SCALAR, PICTURE = ak.Variable(D), ak.Variable((1,)), ak.Variable((8, 8))
GAUSSIAN = ak.base.Gaussian(RNG.normal(size=D), SYMMETRIC)
MIXTURE = ak.base.GaussianMixture([0.3, 0.7], MEANS, 0.3)
DATA = ak.base.Empirical(RNG.normal(size=(300, D)))
NORMAL = ak.base.Gaussian(np.zeros(1), 1.0)
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "tail": 0.3}


def exact_network(law: ak.base.BaseLaw = MIXTURE) -> ak.base.Denoiser:
    return ak.base.Denoiser(law.denoise, (D,), exact=True, name="network", **EDM)


def learned(law: ak.base.BaseLaw = MIXTURE) -> ak.base.Denoiser:
    return ak.base.Denoiser(law.denoise, (D,), name="learned", **EDM)


def wave(x: Any) -> Any:
    return np.sin(3 * x[:, 0])


def brightness(x: Any) -> Any:
    return x[:, 0].clip(-1.0, 1.0)


def operator() -> Any:
    from scipy.sparse.linalg import aslinearoperator

    return aslinearoperator(A[:3])


def sparse() -> Any:
    from scipy import sparse

    return sparse.csr_array(np.where(np.abs(A) > 0.3, A, 0.0))


def parameters() -> ak.Problem:
    """A reward with parameters, whose values go along."""
    target, weight = ak.Parameter(2, [1.0, -0.5], name="target"), ak.Parameter(value=0.7, nonneg=True, name="weight")
    reward = -ak.norm1(A[:2] @ X - target) - weight * ak.square(X[3])
    return ak.Problem(reward, GAUSSIAN, ak.Wasserstein(weight=ak.Parameter(value=0.8, name="price")))


def several() -> ak.Problem:
    part = A[:2] @ X - 1.0
    reward = -ak.huber(part[0]) - ak.pos(part[1]) - ak.sum(ak.square(part))
    return ak.Problem(reward, GAUSSIAN, ak.Wasserstein(weight=1.0))


@dataclass(frozen=True)
class Case:
    """A problem.

    Arguments:
        make: declares it.
        fit: the class of its sampler, and of what is in it.
        options: of `solve`.
        given: what `ak.load` needs beside the file.
    """

    make: Callable[[], ak.Problem]
    fit: str
    options: dict[str, Any] = field(default_factory=dict)
    given: Callable[[ak.Problem], dict[str, Any]] = lambda problem: {}


def with_base(problem: ak.Problem) -> dict[str, Any]:
    return {"base": problem.base}


def with_problem(problem: ak.Problem) -> dict[str, Any]:
    return {"problem": problem}


CASES: dict[str, Case] = {
    "one tilt": Case(lambda: ak.Problem(ak.sum(X) + 1.0, GAUSSIAN, ak.KL(weight=2.0)), "DirectTilt"),
    "one tilt of a law that is one": Case(
        lambda: ak.Problem(X[0] + X[1], MIXTURE.tilt(np.ones(D)), ak.KL(weight=2.0)), "DirectTilt"
    ),
    "few tilts": Case(lambda: ak.Problem(ak.max(A[:2] @ X) + X[0], GAUSSIAN, ak.KL(weight=2.0)), "RejectionTilt"),
    "a pool of tilts": Case(
        lambda: ak.Problem(ak.sum_squares(A[:2] @ X) / 9, MIXTURE, ak.KL(weight=1.0)),
        "PooledTilt",
        {"engine": "annealed"},
    ),
    "labels": Case(
        lambda: ak.Problem(2 * ak.log_sum_exp(A[:3] @ X), GAUSSIAN, ak.KL(weight=1.0)),
        "PooledTilt",
        {"engine": "annealed"},
    ),
    "one tilt of a learned network": Case(
        lambda: ak.Problem(X[0] - X[1], learned(), ak.KL(weight=2.0)), "AnnealedTilt", given=with_base
    ),
    "tilts of a learned network": Case(
        lambda: ak.Problem(ak.sum_squares(A[:2] @ X) / 9 + X[2], learned(), ak.KL(weight=1.0)),
        "AnnealedTilt",
        given=with_base,
    ),
    "annealed Monte Carlo": Case(
        lambda: ak.Problem(-ak.norm1(X), GAUSSIAN, ak.KL(weight=1.0)), "HeuristicTilt", {"heuristic": True}
    ),
    "a black box": Case(
        lambda: ak.Problem(brightness, GAUSSIAN, ak.KL(weight=0.5)),
        "HeuristicTilt",
        {"heuristic": True},
        with_problem,
    ),
    "moments in closed form": Case(
        lambda: ak.Problem(X[0] + ak.log(ak.E(X[1]) + 6), GAUSSIAN, ak.KL(weight=1.0), [ak.E(A[:2] @ X) == [0.1, 0.2]]),
        "DirectTilt",
    ),
    "moments of data": Case(
        lambda: ak.Problem(ak.square(X[0]), DATA, ak.KL(weight=2.0), [ak.E(X[:2]) == [0.4, -0.2], ak.E(X[2]) <= 0.0]),
        "ReweightedData",
    ),
    "moments by quadrature": Case(
        lambda: ak.Problem(X[2] + 0.0, exact_network(), ak.KL(weight=1.0), [ak.E(X[:2]) == [0.0, 0.5]]),
        "Measured(DirectTilt)",
        given=with_base,
    ),
    "moments by draws": Case(
        lambda: ak.Problem(ak.norm2(X[:2]) + X[2], MIXTURE, ak.KL(weight=1.0), [ak.E(X[:2]) == [0.0, 0.5]]),
        "Measured(RejectionTilt)",
    ),
    "a radius under KL": Case(lambda: ak.Problem(ak.inner(A[0], X), GAUSSIAN, ak.KL(radius=2.0)), "DirectTilt"),
    "a shift": Case(lambda: ak.Problem(X[0] + 0.0, GAUSSIAN, ak.Wasserstein(weight=1.0)), "FittedTransport"),
    "a concave reward": Case(
        lambda: ak.Problem(-ak.norm1(A[:3] @ X) + X[5], GAUSSIAN, ak.Wasserstein(weight=2.0)), "FittedTransport"
    ),
    "a weighted cost": Case(
        lambda: ak.Problem(
            -ak.norm1(A[:3] @ X), GAUSSIAN, ak.Wasserstein(weight=2.0, cost=ak.costs.Weighted(np.arange(1.0, D + 1)))
        ),
        "FittedTransport",
    ),
    "an ℓ1 cost": Case(
        lambda: ak.Problem(-ak.norm1(A[:3] @ X), GAUSSIAN, ak.Wasserstein(weight=0.3, cost=ak.costs.L1())),
        "FittedTransport",
    ),
    "a global search": Case(
        lambda: ak.Problem(ak.sin(3 * X[0]) + ak.tanh(X[1]), GAUSSIAN, ak.Wasserstein(weight=0.5)), "FittedTransport"
    ),
    "a function with a Lipschitz constant": Case(
        lambda: ak.Problem(ak.lipschitz(wave, 3.0, X[:1]), GAUSSIAN, ak.Wasserstein(weight=2.0)),
        "FittedTransport",
        given=with_problem,
    ),
    "a linear operator": Case(
        lambda: ak.Problem(-ak.norm1(ak.linear_map(operator(), X)), GAUSSIAN, ak.Wasserstein(weight=2.0)),
        "FittedTransport",
        given=with_problem,
    ),
    "a linear operator under KL": Case(
        lambda: ak.Problem(ak.sum_squares(ak.linear_map(operator(), X[::-1])) / 9, GAUSSIAN, ak.KL(weight=1.0)),
        "PooledTilt",
        {"engine": "annealed"},
        with_problem,
    ),
    "a sparse matrix": Case(
        lambda: ak.Problem(-ak.norm1(sparse() @ X), GAUSSIAN, ak.Wasserstein(weight=2.0)), "FittedTransport"
    ),
    "parameters": Case(parameters, "FittedTransport"),
    "the same parameters": Case(parameters, "FittedTransport", given=with_problem),
    "a radius": Case(
        lambda: ak.Problem(-ak.sum_squares(A[:3] @ X), GAUSSIAN, ak.Wasserstein(radius=0.5)), "FittedTransport"
    ),
    "a radius with a coin": Case(
        lambda: ak.Problem(-ak.abs(SCALAR[0] - 3), NORMAL, ak.Wasserstein(radius=1.0, cost=ak.costs.Euclidean())),
        "FittedTransport(RandomisedMap)",
    ),
    "the shipped digits": Case(
        lambda: ak.Problem(-ak.norm1(PICTURE - PICTURE[:, ::-1]), ak.base.digits(), ak.Wasserstein(weight=2.0)),
        "FittedTransport",
    ),
    "several atoms over one part": Case(
        several,
        "FittedTransport",
    ),
}


def file_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.alignkit"


def main(folder: Path) -> None:
    """Load every file, and write draws and texts beside it."""
    for name, case in CASES.items():
        aligned = ak.load(file_of(folder, name), **case.given(case.make()))
        np.save(folder / f"{name}.npy", aligned.sample(ROWS, seed=SEED))
        texts = {"plan": str(aligned.plan), "result": str(aligned), "seed": aligned.declared.seed}
        (folder / f"{name}.json").write_text(json.dumps(texts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
