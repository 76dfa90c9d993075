"""The promises of a manifest: that it is found, costs nothing to load, and names what is there."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from alignkit.registry import CAPABILITIES, GROUP, Manifest, is_importable
from alignkit.testing.conformance import Breach, Check, Promise, Report, expect, run_checks

__all__ = ["ManifestPromise", "check_manifest", "manifest_checks"]

#: Of alignkit itself: what it runs on is there wherever it is.
_ALWAYS_THERE = frozenset({"alignkit", "array_api_compat", "numpy", "scipy"})
#: Offers that are classes, with the methods of each.
_CLASSES = {
    "tilt_sampler": ("bid", "open"),
    "prox_solver": ("bid", "open"),
    "row_passes": ("read", "write", "write_entries"),
    "transport_layer": ("layer",),
}
_SECONDS = 120

_LOAD = """
import importlib, json, sys
import alignkit.registry
module, _, attribute = sys.argv[1].partition(":")
before = set(sys.modules)
getattr(importlib.import_module(module), attribute)
print(json.dumps(sorted(set(json.loads(sys.argv[2])) & (set(sys.modules) - before))))
"""


class ManifestPromise(Promise):
    """What a manifest promises."""

    FIELDS = "it has a name, engines as a tuple of import names, the command that installs them, and something to offer"
    REGISTERED = f"its name is an entry point of the group {GROUP!r}, which names this manifest"
    LAZY = "loading it imports no engine"
    ENGINES = "its engines are installed"
    PATHS = "every path it offers, 'package.module:attribute', leads to something"
    CAPABILITIES = "samplers and solvers are classes made without arguments that bid and open; the rest are functions"


def check_manifest(manifest: Manifest | str) -> Report:
    """Examine a manifest, and report what it keeps and what it breaks.

    Arguments:
        manifest: the manifest, or the name it is registered under.

    Returns:
        the report, to be printed; `report.raise_broken()` turns it into an error.

    Example:
        >>> check_manifest("exact").conforms
        True
    """
    name = manifest if isinstance(manifest, str) else manifest.name
    return run_checks(f"manifest {name}", manifest_checks(manifest))


def manifest_checks(manifest: Manifest | str) -> tuple[Check, ...]:
    """The checks of `check_manifest` one by one, for a test framework; nothing is loaded before one is called.

    Arguments:
        manifest: the manifest, or the name it is registered under.

    Returns:
        a check for each promise, to be called without arguments.
    """
    checks: dict[ManifestPromise, Callable[[Manifest], None]] = {
        ManifestPromise.FIELDS: _fields,
        ManifestPromise.REGISTERED: functools.partial(_registered, manifest),
        ManifestPromise.LAZY: functools.partial(_lazy, manifest),
        ManifestPromise.ENGINES: _engines,
        ManifestPromise.PATHS: _paths,
        ManifestPromise.CAPABILITIES: _capabilities,
    }
    return tuple(
        Check(promise, None, functools.partial(_on_manifest, examine, manifest)) for promise, examine in checks.items()
    )


def _on_manifest(examine: Callable[[Manifest], None], manifest: Manifest | str) -> None:
    examine(_entry(manifest).load() if isinstance(manifest, str) else manifest)


def _entry(manifest: Manifest | str) -> EntryPoint:
    name = manifest if isinstance(manifest, str) else manifest.name
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted({entry.name for entry in entry_points(group=GROUP)}))
        raise Breach(f"no installed distribution has an entry point {name!r} in {GROUP!r}; there are {known}")
    return next(iter(found))


def _fields(manifest: Manifest) -> None:
    expect(isinstance(manifest, Manifest), f"it is a {type(manifest).__name__}, not an alignkit.registry.Manifest")
    expect(isinstance(manifest.name, str) and manifest.name.strip(), f"its name is {manifest.name!r}")
    engines = manifest.engines
    expect(
        isinstance(engines, tuple) and all(isinstance(engine, str) and engine for engine in engines),
        f"its engines are {engines!r}, not a tuple of names such as ('torch',)",
    )
    needed = [engine for engine in engines if engine.partition(".")[0] not in _ALWAYS_THERE]
    expect(manifest.install or not needed, f"it does not say how {', '.join(needed)} is installed: install= is empty")
    expect(_offers(manifest), "it offers nothing")


def _offers(manifest: Manifest) -> dict[str, str]:
    """The paths a manifest offers, by what they are."""
    paths = [name for name in CAPABILITIES if name != "base_laws"]
    found = {name: getattr(manifest, name) for name in paths if getattr(manifest, name)}
    return found | {f"base_laws[{name!r}]": path for name, path in manifest.base_laws.items()}


def _registered(given: Manifest | str, manifest: Manifest) -> None:
    entry = _entry(given)
    expect(
        entry.name == manifest.name,
        f"it calls itself {manifest.name!r}, and is registered and shown as {entry.name!r}",
    )
    loaded = entry.load()
    expect(loaded == manifest, f"the entry point {entry.name!r} names another manifest, {entry.value}")


def _lazy(given: Manifest | str, manifest: Manifest) -> None:
    engines = [engine for engine in manifest.engines if engine.partition(".")[0] not in _ALWAYS_THERE]
    path = [entry or os.getcwd() for entry in sys.path]
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, _entry(given).value, json.dumps(engines)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    expect(done.returncode == 0, f"a new process could not load it: {done.stderr.strip().splitlines()[-1:]}")
    imported = json.loads(done.stdout.splitlines()[-1])
    expect(not imported, f"loading it imported {', '.join(imported)}", imported=imported)


def _engines(manifest: Manifest) -> None:
    missing = [engine for engine in manifest.engines if not is_importable(engine)]
    expect(not missing, f"{', '.join(missing)} not found; it says: {manifest.install}", missing=missing)


def _paths(manifest: Manifest) -> None:
    broken = []
    for name, path in _offers(manifest).items():
        try:
            _loaded(path)
        except Exception as error:
            broken.append(f"{name} = {path!r} ({type(error).__name__}: {error})")
    expect(not broken, "; ".join(broken))


def _loaded(path: Any) -> Any:
    module, colon, attribute = str(path).partition(":")
    if not (isinstance(path, str) and module and colon and attribute):
        raise ValueError("a path is written 'package.module:attribute'")
    return getattr(importlib.import_module(module), attribute)


def _capabilities(manifest: Manifest) -> None:
    wrong = []
    for name, path in _offers(manifest).items():
        offer = _loaded(path)
        if name in _CLASSES:
            instance = offer()
            lacking = [method for method in _CLASSES[name] if not callable(getattr(instance, method, None))]
            wrong += [f"{name} = {path!r} has no {method}" for method in lacking]
        elif name != "lowering" and not callable(offer):
            wrong.append(f"{name} = {path!r} is a {type(offer).__name__}, which cannot be called")
        elif name == "base_sampler":
            parameters = inspect.signature(offer).parameters
            wrong += [
                f"{name} = {path!r} takes no {wanted}=" for wanted in ("seed", "progress") if wanted not in parameters
            ]
    expect(not wrong, "; ".join(wrong))
