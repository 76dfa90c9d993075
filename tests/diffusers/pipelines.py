"""Small pipelines of diffusers' kind, for every scheduler and without anything to download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor


class PlainPipeline(DiffusionPipeline):
    """The usual loop around a network and any scheduler; returns samples as they are, with what was told on the way."""

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 6,
        generator: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        return_dict: bool = True,
    ) -> Any:
        config, scheduler = self.unet.config, self.scheduler
        side = config.sample_size
        sides = (side, side) if isinstance(side, int) else tuple(side)
        scheduler.set_timesteps(num_inference_steps)
        shape = (batch_size, config.in_channels, *sides)
        sample = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        sample = sample * getattr(scheduler, "init_noise_sigma", 1.0)
        takes = "generator" in scheduler.step.__code__.co_varnames
        calls = []
        for number, timestep in enumerate(self.progress_bar(scheduler.timesteps)):
            scaled = (
                scheduler.scale_model_input(sample, timestep) if hasattr(scheduler, "scale_model_input") else sample
            )
            output = self.unet(scaled, timestep, return_dict=False)[0]
            calls.append((scaled, timestep, output))
            noise = {"generator": generator} if takes else {}
            sample = scheduler.step(output, timestep, sample, **noise, return_dict=False)[0]
            if callback_on_step_end is not None:
                changed = callback_on_step_end(self, number, timestep, {"latents": sample})
                sample = changed.pop("latents", sample)
        self.maybe_free_model_hooks()
        return {"samples": sample, "calls": calls} if return_dict else (sample,)


class TextPipeline(DiffusionPipeline):
    """Pictures from embeddings of prompts, through latents, with classifier-free guidance."""

    model_cpu_offload_seq = "unet->vae"

    def __init__(self, unet: Any, vae: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler)
        self.set_progress_bar_config(disable=True)

    def encode_prompt(
        self, prompt: str, num_images_per_prompt: int, do_classifier_free_guidance: bool, negative_prompt: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width = self.unet.config.cross_attention_dim
        sides = []
        for text in (prompt, negative_prompt or ""):
            letters = torch.tensor([float(ord(letter)) for letter in text.ljust(5)[:5]]) / 100
            sides.append(letters.reshape(1, 5, 1).expand(num_images_per_prompt, 5, width).to(self.unet.dtype))
        return sides[0], sides[1]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        *,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 4,
        guidance_scale: float = 7.5,
        generator: Any = None,
        output_type: str = "np",
        callback_on_step_end: Callable[..., Any] | None = None,
    ) -> Any:
        config, scheduler = self.unet.config, self.scheduler
        guided = guidance_scale > 1
        given, without = self.encode_prompt(prompt, num_images_per_prompt, guided)
        states = torch.cat([without, given]) if guided else given
        scheduler.set_timesteps(num_inference_steps)
        shape = (num_images_per_prompt, config.in_channels, config.sample_size, config.sample_size)
        latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        latents = latents * scheduler.init_noise_sigma
        for number, timestep in enumerate(self.progress_bar(scheduler.timesteps)):
            both = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
            output = self.unet(both, timestep, encoder_hidden_states=states).sample
            if guided:
                without_, given_ = output.chunk(2)
                output = without_ + guidance_scale * (given_ - without_)
            latents = scheduler.step(output, timestep, latents).prev_sample
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, number, timestep, {"latents": latents})["latents"]
        self.maybe_free_model_hooks()
        if output_type == "latent":
            return latents
        pictures = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        pictures = (pictures / 2 + 0.5).clamp(0, 1)
        return pictures if output_type == "pt" else pictures.float().permute(0, 2, 3, 1).numpy()
