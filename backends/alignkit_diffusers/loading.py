"""The parts of a model that a base law is made of: a network and a scheduler, from whatever the user has of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import ParameterError

__all__ = ["Parts", "parts_of"]

# Where pipelines keep the network that denoises.
_PLACES = ("unet", "transformer")
# What takes part in each of its answers, or takes over from it.
_BESIDE = {"adapter", "controlnet", "transformer_2", "unet_2"}
_PICKLED = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}


@dataclass(frozen=True)
class Parts:
    """What a base law is made of.

    Arguments:
        network: the denoising network, a callable.
        scheduler: a scheduler of diffusers.
        pipeline: the pipeline they are from; None for a network by itself.
        name: how messages name the model.
    """

    network: Callable[..., Any]
    scheduler: Any
    pipeline: Any
    name: str


def parts_of(model: Any, scheduler: Any = None) -> Parts:
    """Find the network and the scheduler of a model.

    Arguments:
        model: a pipeline; a network, that is any callable `(sample, timestep)`; or a folder that `save_pretrained`
            wrote of either. Nothing is downloaded.
        scheduler: in the place of the pipeline's own; needed with a network.

    Returns:
        the parts, the user's own objects where they were given.

    Raises:
        ParameterError: no network or no scheduler is found, or a folder holds pickled weights or none.
    """
    loaded = _load(Path(model)) if isinstance(model, str | os.PathLike) else model
    if hasattr(loaded, "components"):
        network = _network_of(loaded)
        chosen = getattr(loaded, "scheduler", None) if scheduler is None else scheduler
        return Parts(network, _checked_scheduler(chosen), loaded, type(loaded).__name__)
    if not callable(loaded):
        raise ParameterError(
            f"A base law is made of a pipeline of diffusers, or of a network, not of {type(loaded).__name__}.",
            ways_out=["Pass a pipeline.", "Pass a network and scheduler=.", "Pass a folder from save_pretrained."],
        )
    if scheduler is None:
        raise ParameterError(
            f"A network by itself, {_name(loaded)}, does not say how it was noised.",
            ways_out=["Pass the scheduler it was trained with: from_diffusers(network, DDPMScheduler(…))."],
        )
    return Parts(loaded, _checked_scheduler(scheduler), None, _name(loaded))


def _name(network: Any) -> str:
    return getattr(network, "__name__", type(network).__name__)


def _network_of(pipeline: Any) -> Callable[..., Any]:
    components = {name: part for name, part in pipeline.components.items() if part is not None}
    networks = [components[place] for place in _PLACES if place in components]
    if len(networks) != 1:
        raise ParameterError(
            f"{type(pipeline).__name__} does not have one denoising network, under the name "
            f"{' or '.join(map(repr, _PLACES))}; its components are {', '.join(sorted(components))}.",
            ways_out=["Pass the network itself, and scheduler=."],
        )
    beside = sorted(_BESIDE.intersection(components))
    if beside:
        raise ParameterError(
            f"The network of {type(pipeline).__name__} does not denoise alone: {', '.join(beside)} has a part in it.",
            ways_out=["Pass a callable (sample, timestep) that calls both, and scheduler= and shape=."],
        )
    network: Callable[..., Any] = networks[0]
    return network


def _checked_scheduler(scheduler: Any) -> Any:
    if not (hasattr(scheduler, "config") and callable(getattr(scheduler, "set_timesteps", None))):
        raise ParameterError(
            f"scheduler must be a scheduler of diffusers, not {type(scheduler).__name__}.",
            ways_out=["Pass the scheduler the network was trained with, as DDPMScheduler()."],
        )
    return scheduler


def _load(path: Path) -> Any:
    if not path.is_dir():
        raise ParameterError(
            f"There is no folder {str(path)!r}; alignkit downloads no models, and reads no single files.",
            ways_out=[
                "Load it with diffusers, DiffusionPipeline.from_pretrained(…) or .from_single_file(…), and pass the "
                "pipeline.",
                "Pass a folder that save_pretrained wrote.",
            ],
        )
    whole = path / "model_index.json"
    part = path / "config.json"
    if not (whole.is_file() or part.is_file()):
        raise ParameterError(
            f"The folder {str(path)!r} holds neither model_index.json nor config.json.",
            ways_out=["Pass a folder that save_pretrained of a pipeline or of a network wrote."],
        )
    _refuse_pickles(path, path.iterdir() if whole.is_file() else [path])
    index = whole if whole.is_file() else part
    try:
        kind = json.loads(index.read_text())["_class_name"]
        return _class_named(kind, index).from_pretrained(str(path), use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ParameterError(
            f"diffusers could not load the folder {str(path)!r}: {type(error).__name__}: {error}",
            ways_out=["Load it yourself, and pass the pipeline, or the network and scheduler=."],
        ) from error


def _class_named(kind: Any, index: Path) -> Any:
    """A class of diffusers' own; a folder that brings its code along is not run."""
    import diffusers

    found = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if found is None or not hasattr(found, "from_pretrained"):
        raise ParameterError(
            f"{index} names the class {kind!r}, which is not one of diffusers' own.",
            ways_out=["Load it yourself, and pass the pipeline, or the network and scheduler=."],
        )
    return found


def _refuse_pickles(path: Path, folders: Any) -> None:
    """Refuse folders whose weights are pickled: reading those runs whatever code is in them."""
    for folder in folders:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        pickled = [file for file in files if file.suffix in _PICKLED]
        if pickled and not any(file.suffix == ".safetensors" for file in files):
            raise ParameterError(
                f"The weights in {str(folder)!r} are pickled ({pickled[0].name}); reading a pickle runs whatever code "
                "is in it.",
                ways_out=[
                    "Convert it once, where you trust its source: pipe = DiffusionPipeline.from_pretrained("
                    f"{str(path)!r}, use_safetensors=False); pipe.save_pretrained(new_folder), which writes "
                    "safetensors.",
                    "Load it yourself, and pass the pipeline.",
                ],
            )
