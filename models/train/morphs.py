"""In-between pictures: the outline of one thing grows into that of another, filled with the colours of both.

A denoiser that learns only original pictures jumps from one to the other between two captions. Morphs show it
intermediate pictures, which are neither one of the things nor a double exposure. Outlines are mixed as signed
distances (Cohen-Or, Solomovici and Levin, "Three-Dimensional Distance Field Metamorphosis", 1998), with each thing
stretched into the interpolated bounding box.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from models.train.loop import device
from models.train.pictures import SIZE, Gallery

INSIDE, SOLID = 128, 250
"""Coverage (of 255) from which a pixel belongs to the thing, and from which its colour is unmixed."""


class Morphs:
    """Morphs between any two pictures of a gallery."""

    def __init__(self, gallery: Gallery) -> None:
        things = [separate(image, cover) for image, cover in zip(gallery.images, gallery.cover, strict=True)]
        distances, paints, boxes = (np.stack(parts) for parts in zip(*things, strict=True))
        self._layers = torch.from_numpy(np.concatenate([paints, distances[:, None]], axis=1)).to(device())
        self._boxes = torch.from_numpy(boxes).to(device())
        self._areas = torch.from_numpy((gallery.cover >= INSIDE).mean(axis=(1, 2), dtype=np.float32)).to(device())
        steps = (torch.arange(SIZE, device=device()) + 0.5) * (2 / SIZE) - 1
        self._points = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)

    def between(self, ones: torch.Tensor, others: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return morphs between pictures of the gallery, at t in [0, 1].

        Args:
            ones: indices of the first pictures, shape (pictures,).
            others: indices of the second pictures.
            t: of each morph.

        Returns:
            Shape (pictures, 3, 128, 128), in [-1, 1].
        """
        weight = t.view(-1, 1, 1, 1)
        boxes = torch.lerp(self._boxes[ones], self._boxes[others], weight[..., 0])
        start, end = (self._stretched(numbers, boxes) for numbers in (ones, others))
        mixed = torch.lerp(start, end, weight)
        paint, distance = mixed[:, :3], mixed[:, 3:]
        area = torch.lerp(self._areas[ones], self._areas[others], t)
        cover = (distance - outline(distance, area) + 0.5).clamp(0, 1)
        return paint * cover + 1 - cover

    def _stretched(self, numbers: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Return the colours and signed distances of things, stretched into boxes."""
        own = self._boxes[numbers]
        unit = (self._points - boxes[:, None, None, 0]) / boxes[:, None, None, 1]
        points = own[:, None, None, 0] + unit * own[:, None, None, 1]
        layers = self._layers[numbers].float()
        return torch.nn.functional.grid_sample(layers, points, padding_mode="border", align_corners=False)


def separate(
    image: NDArray[np.uint8], cover: NDArray[np.uint8]
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float32]]:
    """Separate a thing from its background.

    Args:
        image: shape (128, 128, 3).
        cover: coverage of each pixel by the thing, of 255: shape (128, 128).

    Returns:
        The signed distance of each pixel to the outline, in pixels, positive inside; the thing's colours in
        [-1, 1], extended outside by the nearest pixel, shape (3, 128, 128); the centre and half the size of its
        bounding box, in columns and rows, relative to half the picture, shape (2, 2).
    """
    inside = cover >= min(INSIDE, cover.max())
    solid = cover >= min(SOLID, cover.max())
    far = distance_transform_edt(inside) - distance_transform_edt(~inside)
    at_edge = cover / 255.0 - 0.5
    distance = np.where(np.abs(far) > 1, far - np.sign(far) / 2, at_edge)  # the edge lies between pixels
    nearest = distance_transform_edt(~solid, return_distances=False, return_indices=True)
    paint = image[tuple(nearest)].transpose(2, 0, 1) / 127.5 - 1
    rows, columns = np.nonzero(inside)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    box = np.stack([(low + high) / SIZE - 1, (high - low) / SIZE])
    return distance.astype(np.float16), paint.astype(np.float16), box.astype(np.float32)


def outline(distance: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """Return the distance at which shapes have the right area, shape (pictures, 1, 1, 1).

    If thin things hardly overlap, the mean of their distances would be negative everywhere.
    """
    ordered = distance.flatten(1).sort(dim=1, descending=True).values
    last = (area * ordered.shape[1]).long().clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, last[:, None]).view(-1, 1, 1, 1)
