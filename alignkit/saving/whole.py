"""Files that appear when they are whole, and leave what was there as it was where writing them fails."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes its name at the end, in one step.

    Arguments:
        path: its name; its folder must exist.

    Raises:
        OSError: it cannot be written.
    """
    waiting = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with waiting.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(path)
    finally:
        waiting.unlink(missing_ok=True)
