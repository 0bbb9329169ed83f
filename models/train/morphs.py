"""In-between pictures: the outline of one thing grows into that of another, filled with the colours of both.

A denoiser that learns only finished pictures jumps from one to the next somewhere between two captions. These show
it what may be seen on the way: neither thing, and no double exposure either. Outlines are mixed as signed distances
(Cohen-Or, Solomovici and Levin, "Three-Dimensional Distance Field Metamorphosis", 1998), each thing stretched
into the box that lies between theirs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from models.train.loop import device
from models.train.pictures import SIZE, Gallery

INSIDE, SOLID = 128, 250
"""Levels of cover, of 255, from which a pixel belongs to the thing, and has no other colour than its own."""


class Morphs:
    """Pictures between any two of a gallery."""

    def __init__(self, gallery: Gallery) -> None:
        things = [taken_apart(image, cover) for image, cover in zip(gallery.images, gallery.cover, strict=True)]
        distances, paints, boxes = (np.stack(parts) for parts in zip(*things, strict=True))
        self._layers = torch.from_numpy(np.concatenate([paints, distances[:, None]], axis=1)).to(device())
        self._boxes = torch.from_numpy(boxes).to(device())
        self._areas = torch.from_numpy((gallery.cover >= INSIDE).mean(axis=(1, 2), dtype=np.float32)).to(device())
        steps = (torch.arange(SIZE, device=device()) + 0.5) * (2 / SIZE) - 1
        self._points = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)

    def between(self, ones: torch.Tensor, others: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
        """Return pictures `along` in [0, 1] of the way between two of the gallery.

        Args:
            ones: numbers of the pictures where they start, shape (pictures,).
            others: where they end.
            along: how far each has come.

        Returns:
            Shape (pictures, 3, 128, 128), in [-1, 1].
        """
        weight = along.view(-1, 1, 1, 1)
        boxes = torch.lerp(self._boxes[ones], self._boxes[others], weight[..., 0])
        start, end = (self._stretched(numbers, boxes) for numbers in (ones, others))
        mixed = torch.lerp(start, end, weight)
        paint, distance = mixed[:, :3], mixed[:, 3:]
        area = torch.lerp(self._areas[ones], self._areas[others], along)
        cover = (distance - outline(distance, area) + 0.5).clamp(0, 1)
        return paint * cover + 1 - cover

    def _stretched(self, numbers: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Return colours and distances of things that are stretched into boxes."""
        own = self._boxes[numbers]
        unit = (self._points - boxes[:, None, None, 0]) / boxes[:, None, None, 1]
        points = own[:, None, None, 0] + unit * own[:, None, None, 1]
        layers = self._layers[numbers].float()
        return torch.nn.functional.grid_sample(layers, points, padding_mode="border", align_corners=False)


def taken_apart(
    image: NDArray[np.uint8], cover: NDArray[np.uint8]
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float32]]:
    """Take a thing out of its picture.

    Args:
        image: shape (128, 128, 3).
        cover: how much of each pixel belongs to the thing, of 255: shape (128, 128).

    Returns:
        For each pixel, by how many pixels it is inside (less than 0: outside); the thing's colours, in [-1, 1],
        which outside are those of its nearest pixel, shape (3, 128, 128); the middle and half the size of its box,
        in columns and rows, as shares of half the picture, shape (2, 2).
    """
    inside = cover >= min(INSIDE, cover.max())
    solid = cover >= min(SOLID, cover.max())
    far = distance_transform_edt(inside) - distance_transform_edt(~inside)
    at_edge = cover / 255.0 - 0.5
    distance = np.where(np.abs(far) > 1, far - np.sign(far) / 2, at_edge)  # the edge runs between pixels
    nearest = distance_transform_edt(~solid, return_distances=False, return_indices=True)
    paint = image[tuple(nearest)].transpose(2, 0, 1) / 127.5 - 1
    rows, columns = np.nonzero(inside)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    box = np.stack([(low + high) / SIZE - 1, (high - low) / SIZE])
    return distance.astype(np.float16), paint.astype(np.float16), box.astype(np.float32)


def outline(distance: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """Return the distance at which shapes cover as much as they should, shape (pictures, 1, 1, 1).

    Where thin things hardly overlap, the mean of their distances would be outside everywhere.
    """
    ordered = distance.flatten(1).sort(dim=1, descending=True).values
    last = (area * ordered.shape[1]).long().clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, last[:, None]).view(-1, 1, 1, 1)
