"""The one place where alignkit meets its backends: discovery through the entry-point group `alignkit.backends`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from alignkit.errors import BackendUnavailableError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "CAPABILITIES",
    "GROUP",
    "BackendStatus",
    "Manifest",
    "base_law",
    "installed_backends",
    "is_importable",
    "offered",
    "offered_if_any",
    "offers",
    "require",
]

GROUP = "alignkit.backends"


@dataclass(frozen=True)
class Manifest:
    """What a backend offers; the object its entry point names.

    Every offer is a dotted path `"package.module:attribute"`, imported only when it is used, so that a manifest costs
    nothing to load.

    Arguments:
        name: the backend's name, as in `solve(backend=name)`.
        engines: the importable packages it runs on, e.g. `("torch",)`; all must be found for it to be available.
        install: the command that makes the engines available, shown when they are missing.
        tilt_sampler: path of a class that implements `alignkit.contracts.TiltSampler`.
        prox_solver: path of a class that implements `alignkit.contracts.ProxSolver`.
        row_passes: path of a class that implements `alignkit.contracts.RowPasses`.
        transport_layer: path of a class that implements `alignkit.transport.derivatives.Layers`.
        base_sampler: path of a function `(law, n, *, seed, progress) → (n, *shape)` that draws from a law known by its
            denoiser.
        lowering: path of a table from atoms to the engine's own expressions.
        base_laws: from the name of a base law to the path of the function that makes it.
        importer: path of a function that turns the engine's own objects into alignkit's.
        model_importer: path of a function that makes a base law of the engine's own model; see
            `ak.base.from_diffusers`.
        pipeline_tilt: path of a function that makes the engine's own pipeline sample a tilted law; see
            `ak.tilted_pipeline`.
        cost_importer: path of a function that turns the engine's own transport costs into `ak.costs.Cost`s.
        sample_distance: path of a function `(x, y, *, epsilon) → float`, W₂ between samples (n, d) and (m, d).

    Example:
        >>> Manifest(name="mine", engines=("numpy",), install="pip install mine", prox_solver="mine.prox:Solver").name
        'mine'
    """

    name: str
    engines: tuple[str, ...] = ()
    install: str = ""
    tilt_sampler: str | None = None
    prox_solver: str | None = None
    row_passes: str | None = None
    transport_layer: str | None = None
    base_sampler: str | None = None
    lowering: str | None = None
    base_laws: Mapping[str, str] = field(default_factory=dict)
    importer: str | None = None
    model_importer: str | None = None
    pipeline_tilt: str | None = None
    cost_importer: str | None = None
    sample_distance: str | None = None


#: What a manifest may offer, by the names of its fields.
CAPABILITIES = tuple(one.name for one in fields(Manifest) if one.name not in {"name", "engines", "install"})


@dataclass(frozen=True)
class BackendStatus:
    """One discovered backend: whether it can be used, and if not, why.

    Arguments:
        name: the entry point's name.
        distribution: the installed distribution it came from, with its version.
        manifest: what it offers; None when loading it failed.
        available: whether its engines were found.
        reason: for an unavailable backend, what is missing and what to install; else what it offers.
    """

    name: str
    distribution: str
    manifest: Manifest | None
    available: bool
    reason: str


def installed_backends() -> tuple[BackendStatus, ...]:
    """Every backend that is registered, in order of name, without importing an engine.

    Returns:
        a status each; a plug-in that fails to load, or whose name is taken, is reported there and breaks nothing.

    Example:
        >>> "exact" in [status.name for status in installed_backends()]
        True
    """
    # Imported here, or a fifth of the time of `import alignkit` would go into it.
    from importlib.metadata import entry_points

    # Each look at a distribution's name parses its metadata anew.
    named: dict[int, str] = {}
    found = []
    for entry in entry_points(group=GROUP):
        if id(entry.dist) not in named:
            named[id(entry.dist)] = _distribution(entry)
        found.append((entry, named[id(entry.dist)]))
    statuses: list[BackendStatus] = []
    # alignkit's own come first under a name, so that nobody takes their place unnoticed.
    for entry, distribution in sorted(found, key=lambda one: (one[0].name, not _is_own(one[1]))):
        holder = next((status for status in statuses if status.name == entry.name), None)
        if holder is None:
            statuses.append(_status(entry, distribution))
        else:
            reason = f"the name {entry.name!r} is taken by {holder.distribution}"
            statuses.append(BackendStatus(entry.name, distribution, None, False, reason))
    return tuple(statuses)


def _distribution(entry: EntryPoint) -> str:
    if entry.dist is None:
        return "unknown distribution"
    metadata = entry.dist.metadata
    return f"{metadata['Name']} {metadata['Version']}"


def _is_own(distribution: str) -> bool:
    return distribution.startswith("alignkit ")


def _status(entry: EntryPoint, distribution: str) -> BackendStatus:
    try:
        manifest = entry.load()
        if not isinstance(manifest, Manifest):
            reason = f"broken: {entry.value} is a {type(manifest).__name__}, not an alignkit.registry.Manifest"
            return BackendStatus(entry.name, distribution, None, False, reason)
        missing = [engine for engine in manifest.engines if not is_importable(engine)]
    # A plug-in is somebody else's code and may raise anything; the others must stay usable.
    except Exception as error:
        reason = f"broken: loading {entry.value} raised {type(error).__name__}: {error}"
        return BackendStatus(entry.name, distribution, None, False, reason)
    if missing:
        reason = f"{', '.join(missing)} not installed: {manifest.install}"
        return BackendStatus(entry.name, distribution, manifest, False, reason)
    offered = ", ".join(name.replace("_", " ") for name in CAPABILITIES if getattr(manifest, name))
    return BackendStatus(entry.name, distribution, manifest, True, offered)


def is_importable(engine: str) -> bool:
    """Whether a package can be imported, found out without importing it.

    Arguments:
        engine: its import name.

    Example:
        >>> is_importable("numpy")
        True
    """
    try:
        return importlib.util.find_spec(engine) is not None
    # Raised for a submodule of a package that is not there.
    except ModuleNotFoundError:
        return False


def offers(capability: str, statuses: Sequence[BackendStatus] | None = None) -> tuple[str, ...]:
    """The names of the available backends that offer a capability, nothing of them imported.

    Arguments:
        capability: `"tilt_sampler"` or `"prox_solver"`.
        statuses: what `installed_backends` gave, where one look serves several questions; a new look if None.
    """
    return tuple(
        status.name
        for status in (installed_backends() if statuses is None else statuses)
        if status.available and status.manifest is not None and getattr(status.manifest, capability)
    )


def require(name: str, capability: str, statuses: Sequence[BackendStatus] | None = None) -> Any:
    """The implementation of a capability by one backend, or an error that says what to install.

    Arguments:
        name: the backend's name.
        capability: the name of a manifest's field: `"tilt_sampler"`, `"prox_solver"`, `"lowering"` …
        statuses: as for `offers`.

    Returns:
        the object the manifest's path names.

    Raises:
        BackendUnavailableError: the backend is unknown, not installed, broken, or does not offer the capability.
    """
    # The first under a name holds it.
    held = {status.name: status for status in reversed(installed_backends() if statuses is None else statuses)}
    if name not in held:
        known = ", ".join(sorted(held)) or "none"
        raise BackendUnavailableError(
            f"There is no backend {name!r}; registered: {known}.",
            ways_out=[
                *(f"Did you mean {near!r}?" for near in difflib.get_close_matches(name, held, n=1)),
                "`alignkit backends` lists them with what each offers.",
            ],
        )
    status = held[name]
    if not status.available or status.manifest is None:
        raise BackendUnavailableError(
            f"The backend {name!r} ({status.distribution}) cannot be used: {status.reason}.",
            ways_out=[status.manifest.install] if status.manifest else ["Reinstall or remove the plug-in."],
        )
    offer = getattr(status.manifest, capability)
    if not offer:
        raise BackendUnavailableError(
            f"The backend {name!r} offers {status.reason}, but no {capability.replace('_', ' ')}.",
            ways_out=["Use backend='auto'.", "`alignkit backends` lists what each backend offers."],
        )
    try:
        return _load(offer)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"The backend {name!r} ({status.distribution}) cannot be used: {error.message}", ways_out=error.ways_out
        ) from error


def offered(capability: str) -> Any:
    """The first available implementation of a capability, whichever backend it is.

    Raises:
        BackendUnavailableError: no available backend offers it; the message says what each that would lacks.
    """
    return _first(capability.replace("_", " "), lambda manifest: getattr(manifest, capability))


def offered_if_any(capability: str, *, imported: bool = False) -> Any | None:
    """The first available implementation of what makes things faster, and is not needed.

    Arguments:
        capability: as for `require`.
        imported: only of backends whose engines are imported already, so that it costs no time.

    Returns:
        the object the manifest's path names; None where there is none.
    """

    def path_of(manifest: Manifest) -> str | None:
        costs_nothing = not imported or all(engine in sys.modules for engine in manifest.engines)
        return getattr(manifest, capability) if costs_nothing else None

    try:
        return _first(capability.replace("_", " "), path_of)
    except BackendUnavailableError:
        return None


def base_law(name: str) -> Any:
    """The base law that some available backend offers under a name.

    Raises:
        BackendUnavailableError: no available backend offers it; the message says what each that would lacks.
    """
    return _first(f"base law {name!r}", lambda manifest: manifest.base_laws.get(name))()


def _first(what: str, path_of: Callable[[Manifest], str | None]) -> Any:
    reasons = []
    for status in sorted(installed_backends(), key=lambda one: not _is_own(one.distribution)):
        path = path_of(status.manifest) if status.manifest is not None else None
        if path is not None:
            if status.available:
                try:
                    return _load(path)
                except BackendUnavailableError as error:
                    reasons.append(f"{status.name}: {error.message}")
            else:
                reasons.append(f"{status.name}: {status.reason}")
    raise BackendUnavailableError(f"No available backend offers a {what}.", ways_out=reasons)


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    # See `_status`: a plug-in may raise anything.
    except Exception as error:
        raise BackendUnavailableError(
            f"Loading {path} raised {type(error).__name__}: {error}.", ways_out=["Reinstall or remove the plug-in."]
        ) from error
