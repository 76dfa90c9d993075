"""What a pipeline's own text encoders make of a prompt, as extra arguments of its network."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from alignkit.errors import ParameterError
from alignkit_diffusers.networks import config_of, parameters_of

__all__ = ["encoded_prompt"]

Encoded = dict[str, Any]


def encoded_prompt(
    pipeline: Any, network: Any, prompt: str, *, negative: str | None, guided: bool
) -> tuple[Encoded, Encoded | None]:
    """The extra arguments of a network for a prompt, and for the absence of one.

    Pipelines of three kinds are understood, by what their `encode_prompt` returns: a pair of embeddings (Stable
    Diffusion 1 and 2), and two embeddings with two pooled ones (Stable Diffusion XL, with its sizes, and 3).

    Arguments:
        pipeline: has `encode_prompt`.
        network: takes what comes of it.
        prompt: the text.
        negative: the text of the other side; None leaves it to the pipeline.
        guided: whether the negative side is wanted.

    Returns:
        the arguments for the prompt, tensors of one row, and those for the other side; None where the pipeline gives
        none or it is not wanted.

    Raises:
        ParameterError: the pipeline does not encode prompts, or gives something that is not understood.
    """
    if not isinstance(prompt, str):
        raise ParameterError(f"prompt must be one text, not {type(prompt).__name__}: a base law is of one prompt.")
    encode = getattr(pipeline, "encode_prompt", None)
    if encode is None:
        what = "a network without a pipeline" if pipeline is None else type(pipeline).__name__
        raise ParameterError(
            f"A prompt was given, but {what} does not encode prompts.",
            ways_out=["Pass conditioning={'encoder_hidden_states': embeddings}.", "Leave prompt out."],
        )
    takes = inspect.signature(encode).parameters
    options = {
        "prompt": prompt,
        "device": getattr(pipeline, "_execution_device", None),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": guided,
        "negative_prompt": negative,
    }
    # What further encoders are told is the same prompt, unless they are told otherwise.
    required = {name: None for name, parameter in takes.items() if parameter.default is parameter.empty}
    with torch.no_grad():
        found = encode(**required | {name: value for name, value in options.items() if name in takes})
    parts = tuple(found) if isinstance(found, tuple | list) else (found,)
    given, without = _named(pipeline, network, parts)
    known = guided and without.get("encoder_hidden_states") is not None
    return given, without if known else None


def _named(pipeline: Any, network: Any, parts: tuple[Any, ...]) -> tuple[Encoded, Encoded]:
    names = parameters_of(network)
    sides = (parts[0::2] if len(parts) == 4 else parts[:1]), (parts[1::2] if len(parts) == 4 else parts[1:])
    if "encoder_hidden_states" in names and len(parts) in {1, 2} and not config_of(network).get("addition_embed_type"):
        first, second = ({"encoder_hidden_states": side[0]} if side else {} for side in sides)
        return first, second
    if len(parts) == 4 and "pooled_projections" in names:
        first, second = ({"encoder_hidden_states": states, "pooled_projections": pooled} for states, pooled in sides)
        return first, second
    if len(parts) == 4 and config_of(network).get("addition_embed_type") == "text_time":
        sizes = _sizes(pipeline, network)
        first, second = (
            {"encoder_hidden_states": states, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
            for states, pooled in sides
        )
        return first, second
    raise ParameterError(
        f"What {type(pipeline).__name__}.encode_prompt returns is not understood: {len(parts)} parts, for "
        f"{type(network).__name__}.",
        ways_out=["Encode the prompt yourself, and pass conditioning={…} and unconditional={…}."],
    )


def _sizes(pipeline: Any, network: Any) -> torch.Tensor:
    """What Stable Diffusion XL is told of a picture's size: original and wanted ones alike, and nothing cropped."""
    side = config_of(network).get("sample_size")
    height, width = (side, side) if isinstance(side, int) else side or (0, 0)
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    return torch.tensor([[height * scale, width * scale, 0, 0, height * scale, width * scale]])
