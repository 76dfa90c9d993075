"""Scratch memory that the calls of a kernel hand on to each other, so that not each of them has to make it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Rooms"]

Room = TypeVar("Room")


class Rooms(Generic[Room]):
    """As many rooms as calls run at once; no two threads are ever in the same one.

    Arguments:
        make: a room, whose contents have no meaning between calls.

    Example:
        >>> rooms = Rooms(lambda: bytearray(8))
        >>> first = rooms.take()
        >>> rooms.give(first)
        >>> rooms.take() is first
        True
    """

    def __init__(self, make: Callable[[], Room]) -> None:
        self._make = make
        self._free: list[Room] = []

    def take(self) -> Room:
        """A room that nobody is in."""
        # Taking from a list and adding to one are each a single step for other threads.
        try:
            return self._free.pop()
        except IndexError:
            return self._make()

    def give(self, room: Room) -> None:
        """Leave a room to the next call."""
        self._free.append(room)
