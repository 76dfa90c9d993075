"""Conditional networks: extra arguments, labels, prompts and guidance, against the networks called by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.errors import ParameterError, ShapeError
from alignkit_diffusers.conditioning import conditioned
from tests.diffusers.small_networks import Rows, text_unet, transformer, unet

WIDTH, TOKENS = 8, 5


@pytest.fixture(scope="module")
def text_network() -> Any:
    return text_unet(channels=2)


def labelled_network() -> Any:
    return unet(num_class_embeds=3)


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_guidance_is_of_two_answers_from_one_call(text_network: Any) -> None:
    sample, timestep = normal(3, 2, 8, 8), torch.tensor([7.0, 400.0, 990.0])
    given, without = normal(1, TOKENS, WIDTH, seed=4), normal(1, TOKENS, WIDTH, seed=5)
    call = conditioned(
        text_network,
        conditioning={"encoder_hidden_states": given},
        unconditional={"encoder_hidden_states": without},
        guidance_scale=3.0,
    )
    answers = [
        text_network(sample, timestep, encoder_hidden_states=states.expand(3, -1, -1)).sample
        for states in (without, given)
    ]
    rows = Rows(text_network)
    found = call(sample, timestep)
    assert (call.evaluations_per_denoise, rows.seen) == (2, [6])
    torch.testing.assert_close(found, answers[0] + 3 * (answers[1] - answers[0]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 1, 1.0])
def test_without_guidance_the_condition_is_all_there_is(text_network: Any, scale: float | None) -> None:
    sample, given = normal(2, 2, 8, 8), normal(1, TOKENS, WIDTH)
    call = conditioned(text_network, conditioning={"encoder_hidden_states": given}, guidance_scale=scale)
    rows = Rows(text_network)
    found = call(sample, torch.tensor(20.0))
    assert (call.evaluations_per_denoise, rows.seen) == (1, [2])
    truth = text_network(sample, 20, encoder_hidden_states=given.expand(2, -1, -1)).sample
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6)


def test_what_one_side_leaves_out_is_shared_and_mappings_may_be_nested() -> None:
    seen: list[dict[str, Any]] = []

    def network(sample: Tensor, timestep: Tensor, first: Any, added: Any, flag: Any = None) -> tuple[Tensor]:
        seen.append({"first": first, "added": added, "flag": flag, "timestep": timestep})
        return (sample * first[:, :, None] + added["second"][:, :, None],)

    call = conditioned(
        network,
        conditioning={"first": torch.full((1, 1), 2), "added": {"second": torch.ones(1, 1).double()}, "flag": "on"},
        unconditional={"added": {"second": torch.full((1, 1), -1.0)}},
        guidance_scale=0.5,
    )
    sample = normal(2, 3, 4)
    # 2x + u + ½(c − u) with u = −1 and c = 1.
    torch.testing.assert_close(call(sample, torch.tensor([1.0])), 2 * sample)
    (given,) = seen
    assert given["flag"] == "on" and given["first"].dtype == torch.int64
    assert given["added"]["second"].dtype == torch.float32
    assert given["added"]["second"].flatten().tolist() == [-1, -1, 1, 1]
    assert given["timestep"].tolist() == [1, 1, 1, 1]


@torch.no_grad()
def test_a_transformer_is_told_the_label_after_the_last_in_place_of_a_class() -> None:
    network, sample, timestep = transformer(), normal(2, 2, 8, 8), torch.tensor([3.0, 800.0])
    call = conditioned(network, class_labels=4, guidance_scale=2.5)
    given, without = (
        network(sample, timestep=timestep, class_labels=torch.full((2,), label)).sample for label in (4, 10)
    )
    assert call.evaluations_per_denoise == 2
    torch.testing.assert_close(call(sample, timestep), without + 2.5 * (given - without), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_labels_of_a_network_with_classes() -> None:
    network, sample = labelled_network(), normal(2, 1, 8, 8)
    call = conditioned(network, class_labels=[2])
    truth = network(sample, 50, class_labels=torch.tensor([2, 2])).sample
    torch.testing.assert_close(call(sample, torch.tensor(50.0)), truth)
    guided = conditioned(network, class_labels=2, unconditional={"class_labels": 0}, guidance_scale=2)
    other = network(sample, 50, class_labels=torch.tensor([0, 0])).sample
    torch.testing.assert_close(guided(sample, torch.tensor(50.0)), 2 * truth - other, rtol=1e-4, atol=1e-5)


class Encoding:
    """A pipeline whose text encoder spells texts out."""

    def spelled(self, text: str) -> Tensor:
        letters = [float(ord(letter)) for letter in text.ljust(TOKENS)[:TOKENS]]
        return torch.tensor(letters).reshape(1, TOKENS, 1).expand(1, TOKENS, WIDTH) / 100

    def encode_prompt(
        self,
        prompt: str,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        negative = self.spelled(negative_prompt or "") if do_classifier_free_guidance else None
        return self.spelled(prompt), negative


class PooledEncoding(Encoding):
    """One that gives two embeddings, and two pooled ones."""

    vae_scale_factor = 4

    def encode_prompt(self, prompt: str, prompt_2: Any, negative_prompt: str | None = None) -> Any:  # type: ignore[override]
        sides = self.spelled(prompt), self.spelled(negative_prompt or "")
        return *sides, *(side.mean(dim=1) for side in sides)


@torch.no_grad()
@pytest.mark.parametrize("negative", [None, "blur"])
def test_a_prompt_goes_through_the_pipelines_own_encoder(text_network: Any, negative: str | None) -> None:
    pipeline, sample, timestep = Encoding(), normal(2, 2, 8, 8), torch.tensor([30.0, 30.0])
    call = conditioned(text_network, pipeline=pipeline, prompt="a cat", unconditional=negative, guidance_scale=4)
    by_hand = conditioned(
        text_network,
        conditioning={"encoder_hidden_states": pipeline.spelled("a cat")},
        unconditional={"encoder_hidden_states": pipeline.spelled(negative or "")},
        guidance_scale=4,
    )
    assert torch.equal(call(sample, timestep), by_hand(sample, timestep))
    alone = conditioned(text_network, pipeline=pipeline, prompt="a cat")
    assert alone.evaluations_per_denoise == 1
    assert not torch.equal(alone(sample, timestep), call(sample, timestep))


def test_pooled_embeddings_go_where_networks_look_for_them() -> None:
    def third(sample: Tensor, encoder_hidden_states: Any, pooled_projections: Any, timestep: Tensor) -> Tensor:
        return sample

    pipeline = PooledEncoding()
    call = conditioned(third, pipeline=pipeline, prompt="cat", guidance_scale=2)
    assert torch.equal(call.conditional["pooled_projections"], pipeline.spelled("cat").mean(dim=1))
    assert call.unconditional is not None
    assert torch.equal(call.unconditional["encoder_hidden_states"], pipeline.spelled(""))

    class Large:
        config = {"addition_embed_type": "text_time", "sample_size": 16}  # noqa: RUF012

        def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Any, added_cond_kwargs: Any) -> Any:
            return sample

    large = conditioned(Large(), pipeline=pipeline, prompt="cat")
    added = large.conditional["added_cond_kwargs"]
    assert added["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]]
    assert torch.equal(added["text_embeds"], pipeline.spelled("cat").mean(dim=1))


@torch.no_grad()
def test_a_compiled_network_is_seen_through_and_still_called() -> None:
    network, sample = labelled_network(), normal(1, 1, 8, 8)
    compiled = torch.compile(network, backend="eager")
    call = conditioned(compiled, class_labels=1)
    assert call.network is compiled
    torch.testing.assert_close(
        call(sample, torch.tensor([5.0])), network(sample, 5, class_labels=torch.tensor([1])).sample
    )


def test_what_does_not_fit_is_refused(text_network: Any) -> None:
    states = normal(1, TOKENS, WIDTH)
    given = {"encoder_hidden_states": states}
    plain = SimpleNamespace(forward=lambda sample, timestep: sample)
    cases: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (ParameterError, "does not encode prompts", text_network, {"prompt": "a cat"}),
        (ParameterError, "SimpleNamespace does not encode", text_network, {"prompt": "x", "pipeline": plain}),
        (ParameterError, "one text", text_network, {"prompt": ["a", "b"], "pipeline": Encoding()}),
        (ParameterError, "not understood", text_network, {"prompt": "a", "pipeline": PooledEncoding()}),
        (ParameterError, "there is no prompt", text_network, {"conditioning": given, "unconditional": "blur"}),
        (ParameterError, "also needs encoder_hidden_states", text_network, {}),
        (ParameterError, "also needs class_labels", transformer(), {}),
        (ParameterError, "also needs class_labels", labelled_network(), {}),
        (ParameterError, "without the condition", text_network, {"conditioning": given, "guidance_scale": 2}),
        (ParameterError, "without the condition", labelled_network(), {"class_labels": 1, "guidance_scale": 2}),
        (ParameterError, "knows the classes 0 … 9", transformer(), {"class_labels": 11}),
        (ParameterError, "knows the classes 0 … 2", labelled_network(), {"class_labels": 3}),
        (ParameterError, "knows the classes 0 … 2", labelled_network(), {"class_labels": -1}),
        (ParameterError, "one integer", labelled_network(), {"class_labels": [0, 1]}),
        (ParameterError, "one integer", labelled_network(), {"class_labels": True}),
        (ParameterError, "not told a class", text_network, {"conditioning": given, "class_labels": 0}),
        (ParameterError, "names 'hidden'", text_network, {"conditioning": {"hidden": states}}),
        (ParameterError, "names 'timestep'", text_network, {"conditioning": {"timestep": states}}),
        (ParameterError, "names 'noise'", lambda sample, noise: sample, {"conditioning": {"noise": states}}),
        (ParameterError, "must be a mapping", text_network, {"conditioning": states}),
        (ShapeError, "of one row", text_network, {"conditioning": {"encoder_hidden_states": states.expand(2, -1, -1)}}),
        (
            ShapeError,
            "the condition's is",
            text_network,
            {
                "conditioning": given,
                "unconditional": {"encoder_hidden_states": states[:, :2]},
                "guidance_scale": 2,
            },
        ),
        *(
            (ParameterError, "guidance_scale", text_network, {"conditioning": given, "guidance_scale": scale})
            for scale in (float("nan"), float("inf"), -1, True, "2")
        ),
    ]
    for kind, message, network, options in cases:
        with pytest.raises(kind, match=message):
            conditioned(network, **options)


def test_an_answer_without_a_sample_is_refused() -> None:
    call = conditioned(lambda sample, timestep: {"noise": sample})
    with pytest.raises(ParameterError, match="holds no sample"):
        call(normal(1, 2), torch.tensor([1.0]))
