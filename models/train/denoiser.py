"""The fourth step: a denoiser that turns noise into a picture for a caption.

It learns to predict the velocity (Salimans and Ho, "Progressive Distillation", 2022) of latents between noise and a
picture. Two departures from Stable Diffusion 1.5 let a small model learn quickly: the pooled text is added to the
time embedding of every block, and the last noise level is pure noise (Lin et al., "Common Diffusion Noise Schedules
and Sample Steps are Flawed", 2023), so that the background becomes white.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from models.train.captions import captions, with_synonyms
from models.train.loop import Plan, batch_size, device, half_precision, train
from models.train.morphs import Morphs
from models.train.pictures import ENDINGS, SIZE, Gallery
from models.train.sizes import LATENT_CHANNELS, TOKENS, Sizes
from momalisa.telemetry.logging import logger

log = logger(__name__)

BATCH = 64

MIXED = 0.25
"""Share of the pictures that are morphs of two, with interpolated captions."""

OF_KIN = 0.4
"""Share of the captions that use a synonym of the label."""

UNGUIDED = 0.1
"""Share of the pictures without a caption, for classifier-free guidance."""

BLUR = 0.1
"""Maximum noise on text embeddings, as a share of their standard deviation, since walks lead between captions."""

PLAN = Plan(steps=20_000, rate=1e-3, rising=500)


def scheduler() -> Any:
    """Return the sampler, whose noise levels the denoiser learns."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def untrained(sizes: Sizes) -> Any:
    """Return an untrained denoiser."""
    finest, *others = sizes.denoiser
    unet: Any = UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(finest, *others),
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * len(others)),
        mid_block_type=None,
        up_block_types=(*("CrossAttnUpBlock2D",) * len(others), "UpBlock2D"),
        cross_attention_dim=sizes.text_width,
        attention_head_dim=8,
        norm_num_groups=sizes.norm_groups,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    torch.nn.init.zeros_(unet.add_embedding.norm2.weight)  # pooled text has no effect at first
    return unet


def copy_matching_weights(unet: Any, folder: Path) -> None:
    """Copy the weights of another denoiser whose shapes match."""
    theirs = load_file(folder / "diffusion_pytorch_model.safetensors")
    own = unet.state_dict()
    fitting = {name: weight for name, weight in theirs.items() if name in own and own[name].shape == weight.shape}
    unet.load_state_dict(fitting, strict=False)
    log.info("inherited", taken=len(fitting), new=len(own) - len(fitting), dropped=len(theirs) - len(fitting))


class TrainingData:
    """Training batches: latents of pictures, and text embeddings of captions."""

    def __init__(
        self,
        gallery: Gallery,
        synonyms: Mapping[str, Sequence[str]],
        autoencoder: Any,
        text_encoder: Any,
        tokenizer: Any,
    ) -> None:
        self._autoencoder = autoencoder
        self._latents = self._encoded(torch.from_numpy(gallery.images).permute(0, 3, 1, 2))
        self._morphs = Morphs(gallery)
        styles = [subject.style for subject in gallery.subjects]
        self._alike = [
            torch.tensor([number for number, its in enumerate(styles) if its == style], device=device())
            for style in ENDINGS
        ]
        own = [captions(subject) for subject in gallery.subjects]
        related = [with_synonyms(subject, synonyms[subject.label]) for subject in gallery.subjects]
        said = [*own, *(words or label for words, label in zip(related, own, strict=True))]
        self._states = states([caption for several in said for caption in several], text_encoder, tokenizer)
        self._silence = states([""], text_encoder, tokenizer)[0].float()
        counts = torch.tensor([len(several) for several in said], device=device())
        self._counts = counts.view(2, -1)
        self._starts = (counts.cumsum(0) - counts).view(2, -1)
        self._blur = BLUR * float(self._states[:1000].float().std())

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents and text embeddings: shapes (count, 4, 16, 16) and (count, tokens, width)."""
        mixed = int(count * MIXED)
        whole = count - mixed
        chosen = torch.randint(len(self._latents), (whole,), device=device())
        alike = self._alike[int(torch.randint(len(self._alike), (), device=device()))]
        ones, others = alike[torch.randint(len(alike), (2, mixed), device=device())]
        along = torch.rand(mixed, device=device())
        latents = [self._latents[chosen], self._encoded(self._morphs.between(ones, others, along))]
        between = torch.lerp(self._say(ones), self._say(others), along.view(-1, 1, 1))
        said = torch.cat([self._say(chosen), between])
        said += torch.randn_like(said) * torch.rand(count, 1, 1, device=device()) * self._blur
        said[torch.rand(count, device=device()) < UNGUIDED] = self._silence
        return torch.cat(latents), said

    def _say(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the text embeddings of a random caption of each picture."""
        kind = (torch.rand(len(pictures), device=device()) < OF_KIN).long()
        which = torch.rand(len(pictures), device=device()) * self._counts[kind, pictures]
        return self._states[self._starts[kind, pictures] + which.long()].float()

    @torch.no_grad()
    def _encoded(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return pictures, in [-1, 1] or levels of 255, as scaled latents: shape (pictures, 4, 16, 16)."""
        encoded = []
        for some in pictures.split(256):
            pixels = some.to(device())
            if pixels.dtype == torch.uint8:
                pixels = pixels / 127.5 - 1
            with half_precision():
                encoded.append(self._autoencoder.encode(pixels).latent_dist.mode().float())
        return torch.cat(encoded) * float(self._autoencoder.config.scaling_factor)


@torch.no_grad()
def states(prompts: Sequence[str], text_encoder: Any, tokenizer: Any) -> torch.Tensor:
    """Return the text embeddings of prompts, in half precision: shape (prompts, tokens, width)."""
    encoded = []
    for start in range(0, len(prompts), 256):
        batch = list(prompts[start : start + 256])
        tokens = tokenizer(batch, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        with half_precision():
            encoded.append(text_encoder(tokens.input_ids.to(device())).last_hidden_state.bfloat16())
    return torch.cat(encoded)


def train_denoiser(lessons: TrainingData, unet: Any, plan: Plan, checkpoint: Path) -> None:
    """Train a denoiser in place."""
    unet.to(device(), memory_format=torch.channels_last)
    denoise = unet if device().type == "cpu" else torch.compile(unet)
    noising = scheduler()
    count = batch_size(BATCH)

    def loss(progress: float) -> torch.Tensor:  # noqa: ARG001
        latents, said = lessons.draw(count)
        noise = torch.randn_like(latents)
        levels = torch.randint(noising.config.num_train_timesteps, (count,), device=device())
        noisy = noising.add_noise(latents, noise, levels).contiguous(memory_format=torch.channels_last)
        with half_precision():
            predicted = denoise(noisy, levels, said).sample
        return torch.nn.functional.mse_loss(predicted.float(), noising.get_velocity(latents, noise, levels))

    train(unet, loss, plan, checkpoint)


def run(
    gallery: Gallery,
    synonyms: Mapping[str, Sequence[str]],
    folder: Path,
    work: Path,
    sizes: Sizes,
    plan: Plan,
    start: Path | None,
) -> None:
    """Train the denoiser of a pipeline, given its other parts.

    Args:
        gallery: the training pictures.
        synonyms: synonyms by label.
        folder: the pipeline, with its text encoder and autoencoder.
        work: the folder of checkpoints.
        sizes: of the denoiser.
        plan: the schedule.
        start: the folder of a denoiser whose weights are used where the shapes match.
    """
    torch.manual_seed(4)
    text_encoder: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
    lessons = TrainingData(
        gallery,
        synonyms,
        AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False).to(device()).eval(),
        text_encoder.to(device()).eval(),
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    )
    unet = untrained(sizes)
    if start:
        copy_matching_weights(unet, start)
    train_denoiser(lessons, unet, plan, work / "denoiser.pt")
    unet.half().save_pretrained(folder / "unet")
    scheduler().save_pretrained(folder / "scheduler")
