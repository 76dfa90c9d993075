"""Every example in a docstring runs, and every public name has a docstring."""

import doctest
import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import alignkit
import alignkit_cvxpy
import alignkit_diffusers
import alignkit_grid
import alignkit_numba
import alignkit_ott
import alignkit_pyomo
import alignkit_torch

PACKAGES = (
    alignkit,
    alignkit_cvxpy,
    alignkit_diffusers,
    alignkit_grid,
    alignkit_numba,
    alignkit_ott,
    alignkit_pyomo,
    alignkit_torch,
)
MODULES = sorted(
    name
    for package in PACKAGES
    for name in (
        package.__name__,
        *(module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")),
    )
    if not name.endswith("__main__")
)


def test_every_package_of_the_wheel_is_looked_at():
    made = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = made["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(one).name for one in shipped} == {package.__name__ for package in PACKAGES}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    globs = {**vars(module), "np": np}
    failures, _ = doctest.testmod(module, extraglobs=globs, optionflags=flags)
    assert failures == 0


def test_public_names_have_docstrings():
    bare = [
        name
        for name in dir(alignkit)
        if not name.startswith("_")
        and (inspect.isclass(getattr(alignkit, name)) or callable(getattr(alignkit, name)))
        and not inspect.getdoc(getattr(alignkit, name))
    ]
    assert bare == []
