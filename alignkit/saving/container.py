"""The file: named arrays and a JSON document in the format of safetensors, written all at once, read with suspicion.

The format, as its documentation gives it (https://huggingface.co/docs/safetensors): eight bytes, the length N of the
header as a little-endian integer; N bytes of JSON, from a name to the type, the shape, and the first and last byte of
an array, with texts of one's own under `__metadata__`; then the arrays, one after the other, in C order and
little-endian. Nothing in it can be executed. The document, its version and a checksum over everything are such texts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import ParameterError, SavedResultError
from alignkit.saving.whole import whole_file

__all__ = ["FORMAT", "bytes_of", "read_file", "write_file"]

#: The version of the document. A file of a later one is refused.
FORMAT = 1

_NAME = "alignkit"
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
#: The longest header that safetensors itself reads, in bytes.
_HEADER_MAX = 100_000_000
_DAMAGED = ("Save the result again, or copy the file again if it was moved.",)
#: How archives and pickles begin: zip (torch), pickle protocols 2 to 5, gzip, HDF5, numpy.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, such as torch.save and numpy.savez write, in which there may be a pickle",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a numpy file",
}


def write_file(path: str | os.PathLike[str], document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a document and arrays; what was at the path before is replaced in one step, or stays as it was.

    Arguments:
        path: of the file; its folder must exist.
        document: of what JSON knows.
        arrays: by name, of numbers or Booleans, any shapes.

    Raises:
        ParameterError: an array is of another type, or the path is a folder.
        OSError: the file cannot be written.
    """
    place = Path(path)
    if place.is_dir():
        raise ParameterError(
            f"{str(place)!r} is a folder.", ways_out=[f"A file in it: {str(place / 'result.alignkit')!r}."]
        )
    # The widest types first, so that every array begins where its type may be read from memory as it is.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header, pieces, end = {}, {}, 0
    for name, array in ordered:
        code = _NAMES.get(array.dtype.newbyteorder("<"))
        if code is None:
            raise ParameterError(f"An array of type {array.dtype} cannot be saved, only numbers and Booleans.")
        piece = np.ascontiguousarray(array, dtype=_TYPES[code]).reshape(array.shape)
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [end, end + piece.nbytes]}
        pieces[name] = piece
        end += piece.nbytes
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    texts = {"format": _NAME, "version": str(FORMAT), "document": text, "sha256": _checksum(text, pieces)}
    start = json.dumps({"__metadata__": texts} | header, ensure_ascii=False, separators=(",", ":")).encode()
    # Padded with spaces, so that the arrays begin at a multiple of eight bytes.
    start += b" " * (-len(start) % 8)
    with whole_file(place) as file:
        file.write(len(start).to_bytes(8, "little") + start)
        for piece in pieces.values():
            file.write(bytes_of(piece))


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write_file` wrote.

    Arguments:
        path: of the file.

    Returns:
        the document, and the arrays by name, which may be written to.

    Raises:
        SavedResultError: the file is no saved result, was cut or changed, or is of a later version of alignkit.
        OSError: it cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        raise SavedResultError(f"{str(place)!r} is a folder, and a saved result is a file.")
    with place.open("rb") as file:
        header, size = _header(file, place)
        texts = header.pop("__metadata__", None)
        if not isinstance(texts, dict) or texts.get("format") != _NAME:
            raise _foreign(place, "a safetensors file that alignkit did not write")
        _check_version(texts, place)
        data = np.fromfile(file, dtype=np.uint8)
    if data.size != size:
        raise SavedResultError(
            f"{str(place)!r} was cut: its arrays take {size} bytes, and there are {data.size}.", ways_out=_DAMAGED
        )
    text = texts.get("document")
    if not isinstance(text, str):
        raise SavedResultError(f"{str(place)!r} has no document.", ways_out=_DAMAGED)
    arrays = {name: _array(data, entry) for name, entry in header.items()}
    if _checksum(text, arrays) != texts.get("sha256"):
        raise SavedResultError(f"{str(place)!r} is not as it was written: its checksum is another.", ways_out=_DAMAGED)
    return json.loads(text), arrays


def _checksum(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of the document and the arrays, in whatever order these lie in the file."""
    found = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(bytes_of(array))
    return found.hexdigest()


def bytes_of(array: NDArray[Any]) -> Any:
    """The memory of an array in C order, not copied."""
    # An empty array has no memory to look at.
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""


def _header(file: Any, place: Path) -> tuple[dict[str, Any], int]:
    """The table of arrays with the texts, and the bytes that the arrays take."""
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    # What a header begins with, where other formats have something else.
    if start[8:] != b"{" or length > _HEADER_MAX:
        known = (what for first, what in _FOREIGN.items() if start.startswith(first))
        raise _foreign(place, next(known, "something else"))
    raw = start[8:] + file.read(length - 1)
    if len(raw) < length:
        raise SavedResultError(
            f"{str(place)!r} was cut: its header takes {length} bytes, and there are {len(raw)}.", ways_out=_DAMAGED
        )
    try:
        header = json.loads(raw)
    except ValueError:
        raise _foreign(place, "something else, or damaged") from None
    named = header if isinstance(header, dict) else {"": None}
    entries: list[Any] = [entry for name, entry in named.items() if name != "__metadata__"]
    if not all(_is_entry(entry) for entry in entries):
        raise SavedResultError(f"The header of {str(place)!r} is damaged.", ways_out=_DAMAGED)
    end = 0
    for first, last in sorted(entry["data_offsets"] for entry in entries):
        if first != end:
            raise SavedResultError(f"The arrays of {str(place)!r} do not follow each other.", ways_out=_DAMAGED)
        end = last
    return named, end


def _is_entry(entry: Any) -> bool:
    """Whether it describes an array."""
    if not isinstance(entry, dict) or entry.get("dtype") not in _TYPES:
        return False
    counts = [entry.get("shape"), entry.get("data_offsets")]
    if not all(isinstance(one, list) and all(isinstance(n, int) and n >= 0 for n in one) for one in counts):
        return False
    size = math.prod(entry["shape"]) * np.dtype(_TYPES[entry["dtype"]]).itemsize
    return len(entry["data_offsets"]) == 2 and entry["data_offsets"][1] - entry["data_offsets"][0] == size


def _array(data: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    return data[first:last].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])


def _check_version(texts: dict[str, Any], place: Path) -> None:
    version = texts.get("version", "")
    if not isinstance(version, str) or not version.isdecimal():
        raise SavedResultError(f"{str(place)!r} has no version.", ways_out=_DAMAGED)
    if int(version) > FORMAT:
        raise SavedResultError(
            f"{str(place)!r} has version {version} of the format, and this alignkit reads up to {FORMAT}.",
            ways_out=["pip install --upgrade alignkit.", "Solve the problem again here, and save it."],
        )


def _foreign(place: Path, what: str) -> SavedResultError:
    return SavedResultError(
        f"{str(place)!r} is not a result that alignkit saved, but {what}. Nothing of it was opened.",
        ways_out=["aligned.save(path) writes one."],
    )
