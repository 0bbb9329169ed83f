"""Stand-ins: for the lease of a chunk, and for a safety checker."""

import torch

from worker.cancellation import CancellationToken


class Never(CancellationToken):
    """Work that nothing ends."""

    def raise_if_cancelled(self) -> None:
        """Go on."""

    def verify(self) -> None:
        """Go on."""


class Checker(torch.nn.Module):
    """Checks a batch like the safety checkers of Stable Diffusion, and blackens the chosen rows."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, rows: set[int]) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, clip_input: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        found = [row in self.rows for row in range(len(clip_input))]
        for row in self.rows:
            images[row] = torch.zeros_like(images[row])
        return images, found
