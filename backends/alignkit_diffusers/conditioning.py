"""Conditional models: prompts, class labels and classifier-free guidance as part of the base law."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import ParameterError, ShapeError
from alignkit_diffusers.networks import config_of, parameters_of, sample_of, timestep_name
from alignkit_diffusers.prompts import encoded_prompt

__all__ = ["ConditionedNetwork", "conditioned"]

Arguments = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ConditionedNetwork:
    """A network with all of its arguments but the sample and the timestep settled.

    Under classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) the answer is u + g(c − u), where c and u
    are the network's answers with and without the condition, from one call of twice the rows.

    Arguments:
        network: the callable.
        conditional: extra arguments for c, of one row each.
        unconditional: extra arguments for u, of the same names and shapes; None without guidance.
        guidance_scale: g; 1 is c alone.
        timestep_name: what the network calls its timestep; None passes it second.

    Extra arguments follow the sample's device and, where they are floating, its dtype.
    """

    network: Any
    conditional: Arguments
    unconditional: Arguments | None
    guidance_scale: float
    timestep_name: str | None

    @property
    def evaluations_per_denoise(self) -> int:
        """How many rows the network sees for each row asked about: 2 under guidance."""
        return 1 if self.unconditional is None else 2

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The network's answer, guided where that was asked for.

        Arguments:
            sample: (n, *shape), in the network's own coordinates and dtype.
            timestep: (n,), or () for all rows.

        Returns:
            what the network answers, (n, …): with the channels of a learned variance, where it has any.
        """
        rows = sample.shape[0]
        at = timestep.expand(rows)
        if self.unconditional is None:
            return self._answer(sample, at, _for_rows(self.conditional, rows, sample))
        extra = _joined(
            _for_rows(self.unconditional, rows, sample),
            _for_rows(self.conditional, rows, sample),
        )
        without, given = self._answer(torch.cat([sample, sample]), torch.cat([at, at]), extra).chunk(2)
        return without + self.guidance_scale * (given - without)

    def _answer(self, sample: Tensor, timestep: Tensor, extra: dict[str, Any]) -> Tensor:
        if self.timestep_name is None:
            return sample_of(self.network(sample, timestep, **extra))
        return sample_of(self.network(sample, **{self.timestep_name: timestep}, **extra))


def conditioned(
    network: Any,
    *,
    pipeline: Any = None,
    prompt: str | None = None,
    conditioning: Arguments | None = None,
    unconditional: Arguments | str | None = None,
    class_labels: int | Sequence[int] | None = None,
    guidance_scale: float | None = None,
) -> ConditionedNetwork:
    """Settle all arguments of a network but the sample and the timestep.

    Arguments:
        network: a network of diffusers, or any callable `(sample, timestep, **extra)`.
        pipeline: the pipeline it is from, for prompts.
        prompt: what the pipeline's `encode_prompt` turns into extra arguments.
        conditioning: extra arguments of the network by name, tensors of one row (1, …) each, such as
            `{"encoder_hidden_states": embeddings}`; mappings of tensors may be nested.
        unconditional: the same for the other side of guidance; what it leaves out is shared. With a prompt it may be
            a negative prompt; None leaves that to the pipeline.
        class_labels: the label of the class, for networks that are told one.
        guidance_scale: g of classifier-free guidance, u + g(c − u); None and 1 are the condition alone, at half the
            cost. diffusers' own pipelines take a default of their own, and leave guidance off at 1 and below.

    Returns:
        a callable `(sample (n, *shape), timestep (n,)) → (n, …)`.

    Raises:
        ParameterError: something the network or the pipeline has no use for, a label out of range, a condition that
            is missing, or guidance without an unconditional side.
        ShapeError: extra arguments that are not of one row, or whose two sides disagree.
    """
    guidance = _checked_guidance(guidance_scale)
    guided = guidance != 1.0
    parameters = parameters_of(network)
    given: dict[str, Any] = {}
    without: dict[str, Any] | None = None
    if prompt is not None:
        negative = unconditional if isinstance(unconditional, str) else None
        given, without = encoded_prompt(pipeline, network, prompt, negative=negative, guided=guided)
    elif isinstance(unconditional, str):
        raise ParameterError(
            "unconditional is a negative prompt, but there is no prompt.",
            ways_out=["Pass prompt= as well, or the extra arguments of the network as a mapping."],
        )
    given |= _checked_arguments(conditioning, "conditioning", parameters)
    if class_labels is not None:
        given["class_labels"] = _label(class_labels, network, parameters)
    _check_complete(given, network, parameters)
    if not guided:
        return ConditionedNetwork(network, given, None, 1.0, timestep_name(parameters))
    other = dict(unconditional) if isinstance(unconditional, Mapping) else {}
    if isinstance(other.get("class_labels"), int):
        other["class_labels"] = _label(other["class_labels"], network, parameters)
    other = _checked_arguments(other, "unconditional", parameters)
    if unconditional is None and without is None and class_labels is not None:
        other = _null_label(network)
    if not other and without is None:
        raise ParameterError(
            f"Guidance of {guidance:g} needs to know what the network is told without the condition.",
            ways_out=[
                "Pass unconditional={…}, such as {'encoder_hidden_states': embeddings of an empty prompt}.",
                "Leave guidance_scale out.",
            ],
        )
    without = given | (without or {}) | other
    _check_alike(given, without, "unconditional")
    return ConditionedNetwork(network, given, without, guidance, timestep_name(parameters))


def _checked_guidance(scale: float | None) -> float:
    if scale is None:
        return 1.0
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
        raise ParameterError(f"guidance_scale must be a finite number that is not negative, not {scale!r}.")
    return float(scale)


def _checked_arguments(
    extra: Arguments | None, what: str, parameters: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """Extra arguments that the network takes, and whose tensors are of one row."""
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise ParameterError(
            f"{what} must be a mapping from the network's arguments to tensors, not {type(extra).__name__}."
        )
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    ours = _sample_and_timestep(parameters) | {"return_dict"}
    known = [name for name in parameters if name not in ours]
    for name, value in extra.items():
        if name in ours or not (any_name or name in known):
            raise ParameterError(
                f"{what} names {name!r}, which the network does not take as an extra argument.",
                ways_out=[f"It takes {', '.join(known) or 'none'}."],
            )
        _check_one_row(value, f"{what}[{name!r}]")
    return dict(extra)


def _sample_and_timestep(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    """The names of what every call gives a network, its sample and its timestep."""
    names, timestep = list(parameters), timestep_name(parameters)
    return {*names[:1], *(names[1:2] if timestep is None else [timestep])}


def _check_one_row(value: Any, what: str) -> None:
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_one_row(part, f"{what}[{name!r}]")
    elif isinstance(value, Tensor) and (value.ndim == 0 or value.shape[0] != 1):
        raise ShapeError(
            f"{what} has shape {tuple(value.shape)}; it must be of one row, (1, …), which all rows share.",
            ways_out=["Slice one row, value[:1].", "Make one base law for each condition."],
        )


def _check_alike(given: Any, without: Any, what: str) -> None:
    """Both sides of guidance go through the network in one call, so they must have the same names and shapes."""
    if isinstance(given, Mapping) and isinstance(without, Mapping):
        if set(given) != set(without):
            odd = ", ".join(sorted(set(given) ^ set(without)))
            raise ParameterError(f"{what} and the condition must name the same arguments; they differ in {odd}.")
        for name in given:
            _check_alike(given[name], without[name], f"{what}[{name!r}]")
    elif isinstance(given, Tensor) and isinstance(without, Tensor) and given.shape != without.shape:
        raise ShapeError(
            f"{what} has shape {tuple(without.shape)}, but the condition's is {tuple(given.shape)}.",
            ways_out=["Pad both to the same length, as text encoders do."],
        )


def _is_of_classes(network: Any) -> bool:
    """Whether a network's configuration says that it is told a class."""
    config = config_of(network)
    return any(config.get(key) for key in ("num_embeds_ada_norm", "num_class_embeds", "class_embed_type"))


def _classes(network: Any) -> int | None:
    """How many class labels a network tells apart; None where it does not say."""
    config = config_of(network)
    classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    return None if classes is None else int(classes)


def _label(labels: int | Sequence[int], network: Any, parameters: Mapping[str, inspect.Parameter]) -> Tensor:
    found = [labels] if isinstance(labels, int) else list(labels)
    if len(found) != 1 or isinstance(found[0], bool) or not isinstance(found[0], int):
        raise ParameterError(
            f"class_labels must be one integer, not {labels!r}: a base law is of one class.",
            ways_out=["Make one base law for each class."],
        )
    config = config_of(network)
    if "class_labels" not in parameters or (config and not _is_of_classes(network)):
        raise ParameterError(
            "class_labels were given, but the network is not told a class.", ways_out=["Leave class_labels out."]
        )
    classes = _classes(network)
    # One beyond the last is what networks trained for guidance are told in place of a class.
    last = None if classes is None else classes - (not config.get("num_embeds_ada_norm"))
    if found[0] < 0 or (last is not None and found[0] > last):
        raise ParameterError(f"class_labels is {found[0]}; the network knows the classes 0 … {(classes or 1) - 1}.")
    return torch.tensor(found)


def _null_label(network: Any) -> dict[str, Any]:
    """What a diffusion transformer is told in place of a class: the label after the last (Peebles and Xie, 2023)."""
    classes = config_of(network).get("num_embeds_ada_norm")
    return {} if classes is None else {"class_labels": torch.tensor([int(classes)])}


def _check_complete(given: Arguments, network: Any, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Refuse a conditional network without its condition, which would fail deep inside of it or run without."""
    ours = _sample_and_timestep(parameters)
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [
        name
        for name, parameter in parameters.items()
        if name not in ours | set(given) and parameter.default is parameter.empty and parameter.kind in positional
    ]
    if _is_of_classes(network) and "class_labels" in parameters and given.get("class_labels") is None:
        missing.append("class_labels")
    if missing:
        raise ParameterError(
            f"The network {type(network).__name__} is conditional: it also needs {', '.join(missing)}.",
            ways_out=[
                "Pass prompt= with a pipeline that encodes prompts, or class_labels=.",
                f"Pass conditioning={{{missing[0]!r}: …}}, a tensor of one row.",
            ],
        )


def _for_rows(extra: Any, rows: int, like: Tensor) -> Any:
    """Extra arguments of one row, for all rows of a batch, on the device and in the floating dtype of the sample."""
    if isinstance(extra, Mapping):
        return {name: _for_rows(value, rows, like) for name, value in extra.items()}
    if not isinstance(extra, Tensor):
        return extra
    dtype = like.dtype if extra.is_floating_point() else extra.dtype
    return extra.to(device=like.device, dtype=dtype).expand(rows, *extra.shape[1:])


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, Mapping):
        return {name: _joined(first[name], second[name]) for name in first}
    return torch.cat([first, second]) if isinstance(first, Tensor) else second
