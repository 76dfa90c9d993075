"""The documentation of every public name: what, arguments, returns with shapes, errors, an example."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import alignkit as ak
import alignkit.testing
from alignkit.expressions import ENTRIES

MODULES: tuple[ModuleType, ...] = (ak, ak.base, ak.costs, ak.errors, alignkit.testing)
#: What tells the shape of a result.
SHAPES = re.compile(r"shape|scalar|\([a-z\d*, ×]*[,*][a-z\d*, ×]*\)|without (those|that) ax|axis|entr|as many|joined")


#: The class and the name of each method.
OWNERS: dict[str, tuple[type, str]] = {}


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class, and every method and property that a class adds, with its name."""
    names = {f"{module.__name__}.{name}": (module, name) for module in MODULES for name in module.__all__}
    names |= {f"alignkit.{row.name}": (ak, row.name) for row in ENTRIES if row.function}
    for full, (module, name) in names.items():
        value = getattr(module, name)
        if inspect.isclass(value):
            yield full, value
            for attribute, member in vars(value).items():
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if not attribute.startswith("_") and inspect.isfunction(function):
                    OWNERS[f"{full}.{attribute}"] = (value, attribute)
                    yield f"{full}.{attribute}", member
        elif callable(value):
            yield full, value


NAMES = dict(public())
FUNCTIONS = {name: value for name, value in NAMES.items() if inspect.isfunction(value)}


def documentation(name: str) -> str:
    """The docstring, with those of the public methods that it overrides."""
    owner, attribute = OWNERS.get(name, (object, ""))
    overridden = [inspect.getdoc(vars(base)[attribute]) for base in owner.__mro__[1:] if attribute in vars(base)]
    return "\n\n".join([inspect.getdoc(NAMES[name]) or "", *(text for text in overridden if text)])


def section(text: str, title: str) -> str:
    found = re.search(rf"^{title}:(.*?)(?=^[A-Z][a-z]+:|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    first = documentation(name).split("\n\n")[0]
    assert first.strip().endswith((".", ":")), f"{name}: {first!r}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_and_returns_are_documented(name: str) -> None:
    text, signature = documentation(name), inspect.signature(FUNCTIONS[name])
    arguments = section(text, "Arguments")
    for argument in signature.parameters:
        if argument not in {"self", "cls"}:
            assert re.search(rf"\b{argument}\b", arguments), f"{name} does not document {argument}"
    if signature.return_annotation not in {"None", None} and len(signature.parameters) > 1:
        assert section(text, "Returns"), f"{name} does not say what it returns"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_documented(name: str) -> None:
    body = inspect.getsource(FUNCTIONS[name])
    raised = set(re.findall(r"raise (\w+Error)\(", body))
    listed = section(documentation(name), "Raises")
    assert {error for error in raised if error not in listed and error != "AssertionError"} == set()


@pytest.mark.parametrize("name", [name for name in NAMES if name.count(".") == 1 and "errors." not in name])
def test_the_front_door_has_examples(name: str) -> None:
    assert section(documentation(name), "Example"), f"{name} has no example"


@pytest.mark.parametrize("row", [row for row in ENTRIES if row.function], ids=lambda row: row.name)
def test_atoms_say_the_shape_of_what_they_return(row: Any) -> None:
    assert SHAPES.search(section(inspect.getdoc(row.function) or "", "Returns"))
