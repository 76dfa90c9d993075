"""Scratch that kernels hand on: what a call leaves in it changes nothing for the next, and no two calls share any."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import ProxProblem
from alignkit_numba.prox import NumbaProxSolver
from alignkit_numba.rooms import Rooms

K = 3
w = ak.Variable(K)
RANDOM = np.random.default_rng(0)
REWARDS = {
    "absolute": -ak.norm1(RANDOM.normal(size=(5, K)) @ w - RANDOM.normal(size=5)),
    "few pieces": ak.min(RANDOM.normal(size=(16, K)) @ w + RANDOM.normal(size=16)),
    "all pieces": ak.min(RANDOM.normal(size=(5, K)) @ w + RANDOM.normal(size=5)),
}


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("rows", [1, 100])
def test_what_rows_before_left_changes_nothing(name, rows):
    problem = ProxProblem(REWARDS[name], 1.0, K, rows)
    points = RANDOM.normal(size=(rows, K))
    clean = NumbaProxSolver().open(problem).solve(points)
    session = NumbaProxSolver().open(problem)
    session.solve(np.full((17, K), np.nan))
    session.solve(1e200 * RANDOM.normal(size=(33, K)))
    again = session.solve(points)
    for field in ("maximiser", "gap", "value", "unfinished"):
        np.testing.assert_array_equal(getattr(again, field), getattr(clean, field))


def test_threads_do_not_meet():
    session = NumbaProxSolver().open(ProxProblem(REWARDS["absolute"], 1.0, K, 2_000))
    batches = [RANDOM.normal(size=(2_000, K)) for _ in range(4)]
    wanted = [session.solve(points).maximiser for points in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(session.solve(batches[number]).maximiser, wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_room_is_made_for_each_call_at_once():
    made = []
    rooms = Rooms(lambda: made.append(None) or bytearray(1))
    first, second = rooms.take(), rooms.take()
    assert len(made) == 2 and first is not second
    rooms.give(first)
    assert rooms.take() is first and len(made) == 2
