"""The noise of a walk: every frame draws the same, at the start and at each step of its sampler.

It is drawn on the CPU in float32, because random numbers differ between models of GPUs. Each frame has a generator
of its own, which the stock pipeline draws from in the same order as it does for a single picture. So samplers that
draw noise at each step (ancestral, LCM, SDE) draw the same for every frame, in a batch of any size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from momalisa.domain.spec import Noise
from worker.rendering.embeddings import slerp


def seeded(seed: int) -> torch.Generator:
    """Return a generator on the CPU that starts from a seed."""
    return torch.Generator("cpu").manual_seed(seed)


class TravellingNoise(TorchFunctionMode):
    """The noise of frames between two seeds: in this context, what a frame's generator draws is between both.

    It is interpolated spherically, so that it keeps the strength that the model expects. The stock pipeline calls
    `torch.randn` with the generators of the frames, and knows of no second ones.
    """

    def __init__(self, noises: Sequence[Noise]) -> None:
        """Make the generators of frames."""
        super().__init__()
        self.generators = [seeded(noise.start) for noise in noises]
        self._ends = {
            generator: (seeded(noise.end), noise.t)
            for generator, noise in zip(self.generators, noises, strict=True)
            if noise.end is not None
        }

    @property
    def travels(self) -> bool:
        """Whether any frame lies between two seeds; if not, the context does nothing."""
        return bool(self._ends)

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; one that draws from a generator of ours also draws from its second."""
        named = named or {}
        drawn = function(*arguments, **named)
        if function is not torch.randn or named.get("generator") not in self._ends:
            return drawn
        generator, t = self._ends[named["generator"]]
        other = function(*arguments, **{**named, "generator": generator})
        return slerp(drawn.flatten(), other.flatten(), t).reshape(drawn.shape)
