import numpy as np

from momalisa.domain import pacing
from worker.media.encoders import Picture
from worker.media.thumbnail import thumbnail


def apart(one: Picture, other: Picture) -> float:
    return pacing.distance(thumbnail(one), thumbnail(other))


def test_a_thumbnail_has_the_same_size_for_every_picture() -> None:
    for side in (64, 128, 1024):
        assert len(thumbnail(np.zeros((side, side, 3), np.uint8))) == 32 * 32 * 3


def test_similar_pictures_have_similar_thumbnails() -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[32:96, 32:96] = 200
    moved, other = np.roll(picture, 4, axis=1), 255 - picture
    assert 0 < apart(picture, moved) < apart(picture, other)


def test_noise_hardly_changes_a_thumbnail() -> None:
    plain = np.full((128, 128, 3), 128, np.uint8)
    grainy = plain + np.random.default_rng(1).integers(-20, 21, plain.shape).astype(np.uint8)
    assert apart(plain, grainy) < apart(plain, plain + 20) / 4
