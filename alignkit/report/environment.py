"""What a result was made with, for whoever wants to make it again."""

from __future__ import annotations

import platform
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from alignkit import registry
from alignkit.compiler.declaration import Declaration
from alignkit.compiler.plan import Plan

__all__ = ["environment_rows"]


def environment_rows(plan: Plan, declared: Declaration | None, *, device: str, seed: int) -> dict[str, str]:
    """Versions, device, seeds and times, by name.

    Arguments:
        plan: how the problem was solved.
        declared: what the result remembers of the solve; None where it does not.
        device: where the draws of the report were made.
        seed: of these draws.
    """
    engines = [
        engine
        for status in registry.installed_backends()
        if status.manifest is not None and status.name == plan.backend
        for engine in status.manifest.engines
    ]
    names = dict.fromkeys(["numpy", "scipy", *engines])
    rows = {
        "alignkit": _alignkit(),
        "backend": plan.backend,
        "engines": ", ".join(f"{name} {_loaded(name)}" for name in names if _loaded(name)),
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device,
    }
    if declared is not None:
        rows["seed of the fit"] = str(declared.seed)
        rows["time to solve"] = f"{declared.seconds:.3g} s"
    now = datetime.now().astimezone()
    return rows | {"seed of these draws": str(seed), "report made": f"{now:%Y-%m-%d %H:%M %Z}"}


def _alignkit() -> str:
    try:
        return version("alignkit")
    except PackageNotFoundError:
        return "not installed, run from its source"


def _loaded(name: str) -> str:
    """The version of a package that has been imported; empty where it has none."""
    return str(getattr(sys.modules.get(name), "__version__", ""))
