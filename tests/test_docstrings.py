"""Every example in a docstring runs, and every public name has a docstring."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import alignkit
import alignkit_cvxpy
import alignkit_pyomo
import alignkit_torch

MODULES = sorted(
    module.name
    for package in (alignkit, alignkit_cvxpy, alignkit_pyomo, alignkit_torch)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not module.name.endswith("__main__")
)


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
