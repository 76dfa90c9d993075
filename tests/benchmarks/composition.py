"""Time and memory of `compose` at d = 3·1024·1024 with three rows, dense and sparse.

Run as `python tests/benchmarks/composition.py`; it exits with 1 when a bar is missed: 1 s on one core, and a peak of
extra memory of 4 times A's (beside the d numbers of g, which every composition holds).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import tracemalloc

import numpy as np
from scipy import sparse

from alignkit.compiler.composition import compose
from alignkit.expressions import Expression, Variable, max, mean, norm1, sum_squares, vec

SHAPE = (3, 1024, 1024)
SECONDS, MEMORY = 1.0, 4.0


def cases() -> list[tuple[str, Expression, int]]:
    """Names, rewards and the bytes of their A."""
    generator = np.random.default_rng(0)
    x = Variable(SHAPE)
    dense = generator.standard_normal((3, x.size))
    thin = sparse.random(3, x.size, density=1e-3, format="csr", random_state=1)
    wide = sparse.random(3, x.size, density=1e-1, format="csr", random_state=1)
    offset = generator.standard_normal(3)
    return [
        ("dense, max of affine", max(dense @ vec(x) + offset), dense.nbytes),
        ("dense, quadratic and linear", sum_squares(dense @ vec(x) - offset) + mean(x), dense.nbytes),
        ("sparse 1e-3, norm1", norm1(thin @ vec(x) - offset), _bytes(thin)),
        ("sparse 1e-3, max of affine", max(thin @ vec(x) - offset), _bytes(thin)),
        ("sparse 1e-1, norm1", norm1(wide @ vec(x) - offset), _bytes(wide)),
        ("sparse 1e-1, max of affine", max(wide @ vec(x) - offset), _bytes(wide)),
    ]


def _bytes(matrix: sparse.csr_matrix) -> int:
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def measure(reward: Expression) -> tuple[float, int]:
    """The best of three times in seconds, and the peak of traced memory in bytes beside the d numbers of g."""
    compose(norm1(vec(Variable(3))))  # scipy's own import is not composition
    times = []
    for _ in range(3):
        start = time.perf_counter()
        composition = compose(reward)
        times.append(time.perf_counter() - start)
    held = composition.linear.nbytes
    del composition
    tracemalloc.start()
    compose(reward)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(times), peak - held


def run() -> bool:
    """Print a line for each case; False when a bar is missed."""
    missed = False
    print(f"{'case':30} {'seconds':>8} {'peak / A':>9} {'peak MB':>8}")
    for name, reward, size in cases():
        seconds, peak = measure(reward)
        failed = seconds > SECONDS or peak > MEMORY * size
        missed |= failed
        print(f"{name:30} {seconds:8.3f} {peak / size:9.2f} {peak / 1e6:8.1f}{'  MISSED' if failed else ''}")
    return not missed
