from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.train.morphs import Morphs
from models.train.pictures import SIZE, Gallery, Subject

RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    """A vertical red bar on the left, and a horizontal blue bar at the bottom, which do not touch."""
    standing, lying = np.zeros((2, SIZE, SIZE), dtype=bool)
    standing[10:80, 10:20] = True
    lying[100:120, 30:120] = True
    images = [np.where(bar[..., None], colour, 255) for bar, colour in ((standing, RED), (lying, BLUE))]
    cover = np.stack([standing, lying]) * np.uint8(255)
    return Gallery(np.stack(images).astype(np.uint8), cover, (Subject("wall", (), "3d"), Subject("sea", (), "3d")))


def levels(gallery: Gallery, along: float) -> NDArray[np.float32]:
    """Return the picture between the two of the gallery, in levels of 255."""
    one, other = torch.tensor([[0], [1]])
    [picture] = Morphs(gallery).between(one, other, torch.tensor([along], dtype=torch.float32))
    pixels: NDArray[np.float32] = ((picture.permute(1, 2, 0) + 1) * 127.5).round().numpy()
    return pixels


@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_are_the_pictures_themselves(gallery: Gallery, end: int) -> None:
    off = np.abs(levels(gallery, end) - gallery.images[end])
    assert off.max() <= 128  # the outline is accurate to half a pixel
    assert (off.max(axis=-1) > 1).sum() < 0.02 * SIZE**2  # and nothing else differs


def test_the_middle_is_one_shape_of_both_colours_on_white(gallery: Gallery) -> None:
    middle = levels(gallery, 0.5)
    shape = (middle < 250).any(axis=-1)
    areas = (gallery.cover > 0).sum(axis=(1, 2))
    assert areas.min() < shape.sum() < areas.max()
    assert np.abs(middle[shape & (middle[..., 1] == 0)] - (100, 0, 100)).max() <= 1
    rows, columns = np.nonzero(shape)
    assert (rows.min() >= 54, columns.min() >= 19, columns.max() <= 71) == (True, True, True)  # between their boxes


def test_it_moves_evenly(gallery: Gallery) -> None:
    pictures = [levels(gallery, along) for along in np.linspace(0, 1, 17)]
    steps = [np.abs(one - other).mean() for one, other in pairwise(pictures)]
    assert max(steps) < 2 * np.mean(steps)
