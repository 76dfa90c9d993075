"""Models solved by several processes at once.

Workers are plain Python processes that read tasks from a pipe: no code of the user's is imported again in them, as it
would be by `multiprocessing`, and one that misses its time limit can be ended. A task is solved in the same way
wherever it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from alignkit_pyomo.model import Answer
from alignkit_pyomo.solving import Task, solved

__all__ = ["Workers", "cores", "work"]

#: What a worker may take beyond the time limit of its task, as a factor and in seconds, before it is ended.
_PATIENCE, _MOMENT = 1.1, 0.2
#: What a worker may take to import the solvers before it is given up.
_SECONDS_TO_IMPORT = 120.0
#: A worker imports PySCIPOpt in about this many seconds.
SECONDS_TO_START = 1.0


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Processes that solve tasks; they start when they are first needed, and end with this object.

    Arguments:
        count: how many; with one, tasks are solved in this process.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes: list[_Process] = []
        self._finalizer = weakref.finalize(self, _end, self._processes)

    def close(self) -> None:
        """End the processes."""
        self._finalizer()
        self._finalizer = weakref.finalize(self, _end, self._processes)

    def solve(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
        """Solve tasks.

        Arguments:
            tasks: any number.

        Returns:
            pairs of a task's place and its answer, as they come.
        """
        if self.count == 1 or len(tasks) < 2:
            for place, task in enumerate(tasks):
                yield place, solved(task)
            return
        waiting: queue.SimpleQueue[tuple[int, Task]] = queue.SimpleQueue()
        for pair in enumerate(tasks):
            waiting.put(pair)
        answers: queue.SimpleQueue[tuple[int, Answer] | BaseException] = queue.SimpleQueue()
        stopped = threading.Event()
        while len(self._processes) < min(self.count, len(tasks)):
            self._processes.append(_Process())
        threads = [
            threading.Thread(target=self._drive, args=(place, waiting, answers, stopped), daemon=True)
            for place in range(min(self.count, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        received = 0
        try:
            for _ in tasks:
                found = answers.get()
                if isinstance(found, BaseException):
                    raise found
                received += 1
                yield found
        finally:
            stopped.set()
            if received < len(tasks):  # interrupted: nobody waits for what is still being solved
                for process in self._processes:
                    process.end()
            for thread in threads:
                thread.join()
            if received < len(tasks):
                self.close()

    def _drive(self, place: int, waiting: Any, answers: Any, stopped: threading.Event) -> None:
        """Hand tasks to one process until there are none."""
        try:
            while not stopped.is_set():
                try:
                    number, task = waiting.get_nowait()
                except queue.Empty:
                    return
                answers.put((number, self._ask(place, task)))
        except BaseException as error:
            answers.put(error)

    def _ask(self, place: int, task: Task) -> Answer:
        try:
            found = self._processes[place].ask(task)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            self._processes[place].end()
            self._processes[place] = _Process()
            return Answer(math.inf, np.zeros((0, len(task.model.lower))), 0, False)
        if isinstance(found, Exception):
            raise found
        answer: Answer = found
        return answer


class _Process:
    """One worker; it greets when it has imported the solvers, which its tasks need not wait for."""

    def __init__(self) -> None:
        # The parent's path, so that an editable or a copied install is found; a solver's own words go nowhere.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "alignkit_pyomo.worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        self._has_greeted = False

    def ask(self, task: Task) -> Any:
        """The answer to a task, or what it raised.

        Raises:
            EOFError, OSError, ValueError, pickle.UnpicklingError: the process ended, perhaps as it took too long.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        if not self._has_greeted:
            with self._ended_after(_SECONDS_TO_IMPORT):
                pickle.load(self._process.stdout)
            self._has_greeted = True
        with self._ended_after(_PATIENCE * task.seconds + _MOMENT):
            pickle.dump(task, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)

    @contextlib.contextmanager
    def _ended_after(self, seconds: float) -> Iterator[None]:
        watch = threading.Timer(seconds, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def work(tasks: IO[bytes], answers: IO[bytes]) -> None:
    """Solve tasks from one stream into another until it ends.

    Arguments:
        tasks: pickled tasks, from the process that started this one.
        answers: pickled answers.
    """
    # Here, so that no task waits for it.
    for engine in ("highspy", "pyscipopt"):
        with contextlib.suppress(ImportError):
            importlib.import_module(engine)
    pickle.dump("ready", answers)
    answers.flush()
    while True:
        try:
            task = pickle.load(tasks)
        except EOFError:
            return
        try:
            found: Any = solved(task)
        except Exception as error:
            found = error
        pickle.dump(found, answers)
        answers.flush()


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.end()
    processes.clear()
