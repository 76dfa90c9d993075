"""From objects to records of JSON and arrays, and back, for the kinds of objects in a table and no others.

A record says of which kind an object is, and what it is made of. Objects are shared as they were: an expression that
stands in two places is one record. A record speaks of earlier ones alone, so that reading takes one pass and no
recursion. What a file cannot hold, as a function of the user's own, is "outside": the record keeps its place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit.expressions import Expression
from alignkit.expressions.arrays import is_operator, is_sparse, to_numpy
from alignkit.expressions.expression import topological
from alignkit.saving.container import bytes_of

__all__ = [
    "Kind", "NotStorableError", "Reader", "Writer", "described", "differing", "kind_by_names", "kind_of_dataclass",
]  # fmt: skip

#: Arrays of another problem count as the same within this, relative to their largest entry.
_SAME = 1e-9


class NotStorableError(Exception):
    """A file cannot hold an object, and there is no place for it from outside."""


@dataclass(frozen=True)
class Kind:
    """How objects of one class are taken apart and made again.

    Arguments:
        name: in files; never to be given another meaning.
        type: the class itself, not those derived from it.
        take: what an object is made of, by name.
        make: the object, from what `take` gave.
    """

    name: str
    type: type
    take: Callable[[Any], Mapping[str, Any]]
    make: Callable[[dict[str, Any]], Any]


def kind_of_dataclass(name: str, made: type) -> Kind:
    """A dataclass by the fields that its constructor takes."""
    return kind_by_names(name, made, *(field.name for field in dataclasses.fields(made) if field.init))


def kind_by_names(name: str, made: type, *names: str) -> Kind:
    """A class by attributes that its constructor takes under the same names."""
    return Kind(name, made, lambda one: {part: getattr(one, part) for part in names}, lambda parts: made(**parts))


class Writer:
    """Collects records and arrays.

    Arguments:
        kinds: the table.

    Attributes:
        records: what the objects so far are made of.
        arrays: by name.
        objects: of which the records are, in the same order.
        outside: what a file cannot hold, in order.
    """

    def __init__(self, kinds: Mapping[type, Kind]) -> None:
        self._kinds = kinds
        self.records: list[dict[str, Any]] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.outside: list[Any] = []
        self.objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._may_add = True

    def close(self) -> None:
        """From now on only what is outside already may be met again."""
        self._may_add = False

    def value(self, found: Any) -> Any:
        """What stands for an object in JSON.

        Raises:
            NotStorableError: after `close`, something new that a file cannot hold.
        """
        if found is None or isinstance(found, bool | str):
            return found
        if isinstance(found, np.generic):
            return self.value(found.item())
        if isinstance(found, int | float) and type(found) in {int, float}:
            return found if math.isfinite(found) else {"float": str(found)}
        if type(found) is tuple:
            return [self.value(one) for one in found]
        if type(found) is list:
            return {"list": [self.value(one) for one in found]}
        if type(found) is dict:
            return {"mapping": [[self.value(key), self.value(one)] for key, one in found.items()]}
        if isinstance(found, slice):
            return {"slice": [self.value(end) for end in (found.start, found.stop, found.step)]}
        if found is Ellipsis:
            return {"ellipsis": True}
        if array_api_compat.is_torch_array(found):
            found = to_numpy(found)
        if isinstance(found, np.ndarray):
            return self._array(found)
        if is_sparse(found):
            parts = {name: self._array(getattr(found, name)) for name in ("data", "indices", "indptr")}
            return {"sparse": parts | {"shape": [int(length) for length in found.shape]}}
        return self._object(found)

    def _array(self, found: NDArray[Any]) -> dict[str, Any]:
        # Products of matrices may round differently in another order in memory.
        is_columns = found.ndim == 2 and found.flags.f_contiguous and not found.flags.c_contiguous
        kept = np.ascontiguousarray(found.T if is_columns else found)
        shape = found.T.shape if is_columns else found.shape
        # The same numbers in two places are written once.
        digest = hashlib.sha256(bytes_of(kept)).digest()
        name = self._names.setdefault((str(kept.dtype), shape, digest), f"a{len(self._names)}")
        self.arrays[name] = kept.reshape(shape)
        return {"array": name, "order": "columns"} if is_columns else {"array": name}

    def _object(self, found: Any) -> dict[str, int]:
        if isinstance(found, Expression):
            # What an expression is built from first, so that deep sums do not exhaust Python's stack.
            for node in topological(found, lambda one: id(one) in self._numbers):
                self._add(node)
        if id(found) not in self._numbers and type(found) in self._kinds:
            self._add(found)
        if id(found) in self._numbers:
            return {"object": self._numbers[id(found)]}
        return {"outside": self._place_outside(found)}

    def _add(self, found: Any) -> None:
        kind = self._kinds.get(type(found))
        if id(found) in self._numbers or kind is None:
            return
        parts = {name: self.value(one) for name, one in kind.take(found).items()}
        self._numbers[id(found)] = len(self.records)
        self.records.append({"kind": kind.name, "of": parts})
        # Kept, as another object may be given the identity of one that is gone.
        self.objects.append(found)

    def _place_outside(self, found: Any) -> int:
        for place, one in enumerate(self.outside):
            if one is found:
                return place
        if not self._may_add:
            raise NotStorableError(described(found))
        self.outside.append(found)
        return len(self.outside) - 1


class Reader:
    """Makes objects of records.

    Arguments:
        kinds: the table.
        records: in order.
        arrays: by name.
        outside: what the file does not hold, in its order.
        known: the first objects, where they are there already.

    Raises:
        KeyError, ValueError, TypeError and others: the records are damaged.
    """

    def __init__(
        self,
        kinds: Mapping[type, Kind],
        records: Sequence[Mapping[str, Any]],
        arrays: Mapping[str, NDArray[Any]],
        *,
        outside: Sequence[Any] = (),
        known: Sequence[Any] = (),
    ) -> None:
        named = {kind.name: kind for kind in kinds.values()}
        self._arrays, self._outside = arrays, outside
        self._objects = list(known)
        for record in records[len(known) :]:
            parts = {name: self.value(one) for name, one in record["of"].items()}
            self._objects.append(named[record["kind"]].make(parts))

    def value(self, found: Any) -> Any:
        """The object that stands for, or is meant by, a value of JSON."""
        if isinstance(found, list):
            return tuple(self.value(one) for one in found)
        if not isinstance(found, dict):
            return found
        (tag, *_), content = found, next(iter(found.values()))
        match tag:
            case "float":
                return float(content)
            case "list":
                return [self.value(one) for one in content]
            case "mapping":
                return {self.value(key): self.value(one) for key, one in content}
            case "slice":
                return slice(*(self.value(end) for end in content))
            case "ellipsis":
                return Ellipsis
            case "array":
                array = self._arrays[content]
                return array.T if found.get("order") == "columns" else array
            case "sparse":
                from scipy import sparse

                entries = tuple(self.value(content[name]) for name in ("data", "indices", "indptr"))
                return sparse.csr_array(entries, shape=tuple(content["shape"]))
            case "object":
                return self._objects[_place(content)]
            case "outside":
                return self._outside[_place(content)]
        raise ValueError(f"there is no value {tag!r}")


def _place(found: Any) -> int:
    if not isinstance(found, int) or found < 0:
        raise ValueError(f"{found!r} is no place")
    return found


def described(found: Any) -> str:
    """An object that a file cannot hold, in words."""
    if isinstance(found, Expression):
        return f"the expression {found} of the class {type(found).__name__}"
    if is_operator(found):
        return f"a linear operator of shape {tuple(found.shape)}"
    if callable(found):
        return f"the function {getattr(found, '__name__', type(found).__name__)!r}"
    return f"a {type(found).__name__}"


def differing(
    mine: Sequence[Mapping[str, Any]],
    my_arrays: Mapping[str, NDArray[Any]],
    other: Sequence[Mapping[str, Any]],
    other_arrays: Mapping[str, NDArray[Any]],
) -> int | None:
    """The place of the first record that is not the same in two lists, numbers up to rounding; None where all are."""

    def same(one: Any, two: Any) -> bool:
        if isinstance(one, dict) and isinstance(two, dict):
            if "array" in one and "array" in two:
                return one.get("order") == two.get("order") and _same_array(
                    my_arrays[one["array"]], other_arrays[two["array"]]
                )
            return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
        if isinstance(one, list) and isinstance(two, list):
            return len(one) == len(two) and all(map(same, one, two))
        if isinstance(one, float) and isinstance(two, int | float):
            return math.isclose(one, two, rel_tol=_SAME)
        return type(one) is type(two) and bool(one == two)

    for place, (one, two) in enumerate(zip(mine, other, strict=False)):
        if not same(one, two):
            return place
    return None if len(mine) == len(other) else min(len(mine), len(other))


def _same_array(one: NDArray[Any], two: NDArray[Any]) -> bool:
    if one.shape != two.shape:
        return False
    return bool(np.allclose(one, two, rtol=0.0, atol=_SAME * float(np.abs(one).max(initial=0.0))))
