"""The sizes of the parts of the model."""

from dataclasses import dataclass

TOKENS = 32
"""Maximum number of tokens of a prompt."""

LATENT_CHANNELS = 4


@dataclass(frozen=True)
class Sizes:
    """Widths and depths; the layout is that of Stable Diffusion 1.5."""

    vocabulary: int
    text_width: int
    text_layers: int
    autoencoder: tuple[int, ...]
    """Channels at each resolution, the finest first."""
    denoiser: tuple[int, ...]
    """Channels at each resolution, the finest first; all but the finest have cross-attention."""
    norm_groups: int


MINI = Sizes(
    vocabulary=11_000,
    text_width=256,
    text_layers=4,
    autoencoder=(16, 32, 64, 128),
    denoiser=(64, 192, 320),
    norm_groups=16,
)
"""The sizes of the bundled model."""

TINY = Sizes(
    vocabulary=1000,
    text_width=32,
    text_layers=1,
    autoencoder=(8, 8, 16, 16),
    denoiser=(16, 32, 48),
    norm_groups=8,
)
"""Minimal sizes, to try the training in a minute."""
