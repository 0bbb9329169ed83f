"""The third step: an autoencoder between pictures and latents of 16 × 16 with 4 channels."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from models.train.loop import Plan, batch_size, device, half_precision, train
from models.train.pictures import SIZE, Gallery
from models.train.sizes import LATENT_CHANNELS, Sizes

CROP, CROPS = 64, 8
"""Width and height of the crops that most of the training uses, and crops per batch."""

WHOLE, WHOLES = 0.8, 2
"""Progress from which it uses whole pictures, and pictures per batch."""

JITTER = 0.03
"""Noise that is added to the latents, as a share of their standard deviation.

Sampling from a posterior, as in a variational autoencoder, learns far slower.
"""

EDGES, LARGE, SMALL_LATENTS = 0.5, 0.5, 1e-3
"""Weights of the losses for edges, for the colours of large areas, and for the size of latents."""

PLAN = Plan(steps=12_000, rate=1e-3, rising=100, falling=0.9)


def untrained(sizes: Sizes) -> Any:
    """Return an untrained autoencoder."""
    levels = len(sizes.autoencoder)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.autoencoder,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def difference(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the perceptual loss of pictures, which weights edges and areas."""
    gap = made - wanted
    edges = gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean()
    areas = torch.nn.functional.avg_pool2d(gap, 4).abs().mean()
    return gap.abs().mean() + EDGES * edges + LARGE * areas


def pieces(images: torch.Tensor, progress: float) -> torch.Tensor:
    """Return random pictures or crops, in [-1, 1]; half of them are mirrored."""
    count, size = (batch_size(WHOLES), SIZE) if progress > WHOLE else (batch_size(CROPS), CROP)
    top, left = torch.randint(SIZE - size + 1, (2,), device=device()).tolist()
    some = images[torch.randint(len(images), (count,), device=device()), :, top : top + size, left : left + size]
    some = torch.where(torch.rand(count, 1, 1, 1, device=device()) < 0.5, some.flip(-1), some)  # noqa: PLR2004
    return (some / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def run(gallery: Gallery, folder: Path, work: Path, sizes: Sizes, plan: Plan) -> None:
    """Train the autoencoder of a pipeline.

    Args:
        gallery: the training pictures.
        folder: the pipeline.
        work: the folder of checkpoints.
        sizes: of the autoencoder.
        plan: the schedule.
    """
    torch.manual_seed(3)
    images = torch.from_numpy(gallery.images).permute(0, 3, 1, 2).contiguous().to(device())
    autoencoder = untrained(sizes).to(device(), memory_format=torch.channels_last)

    def loss(progress: float) -> torch.Tensor:
        wanted = pieces(images, progress)
        with half_precision():
            latents = autoencoder.encode(wanted).latent_dist.mean
            latents = latents + JITTER * latents.detach().std() * torch.randn_like(latents)
            made = autoencoder.decode(latents).sample
        size: torch.Tensor = latents.float().square().mean()
        return difference(made.float(), wanted) + SMALL_LATENTS * size

    train(autoencoder, loss, plan, work / "autoencoder.pt")
    autoencoder.register_to_config(scaling_factor=1 / spread(autoencoder, images))
    autoencoder.half().save_pretrained(folder / "vae")


@torch.no_grad()
def spread(autoencoder: Any, images: torch.Tensor, count: int = 256) -> float:
    """Return the standard deviation of latents."""
    some = images[:: max(len(images) // count, 1)] / 127.5 - 1
    return float(autoencoder.encode(some).latent_dist.mean.std())
