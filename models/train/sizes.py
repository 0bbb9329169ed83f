"""How large the parts of the model are."""

from dataclasses import dataclass

TOKENS = 32
"""Tokens that the text encoder reads."""

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
    """Channels at each resolution, the finest first; all but the finest look at the text."""
    norm_groups: int


MINI = Sizes(
    vocabulary=11_000,
    text_width=256,
    text_layers=4,
    autoencoder=(16, 32, 64, 128),
    denoiser=(64, 192, 320),
    norm_groups=16,
)
"""The bundled model."""

TINY = Sizes(
    vocabulary=1000,
    text_width=32,
    text_layers=1,
    autoencoder=(8, 8, 16, 16),
    denoiser=(16, 32, 48),
    norm_groups=8,
)
"""As small as it goes, to try the recipe in a minute."""
