import numpy as np
import pytest

from benchmarks.recognition import Question, figures, nearest
from models.train.pictures import Gallery, Subject


@pytest.fixture(scope="module")
def handful() -> Gallery:
    """Discs of three colours."""
    row, column = np.mgrid[:128, :128] - 63.5
    disc = (np.hypot(row, column) < 50)[..., None]
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]])[:, None, None]
    images = np.where(disc, colours, 255).astype(np.uint8)
    cover = np.broadcast_to(255 * disc[..., 0], images.shape[:3]).astype(np.uint8)
    return Gallery(images, cover, tuple(Subject(name, (), "3d") for name in ("rose", "leaf", "sea")))


def test_pictures_are_recognised_as_their_nearest_neighbours(handful: Gallery) -> None:
    generator = np.random.default_rng(1)
    worn = np.clip(handful.images + generator.normal(0, 8, handful.images.shape), 0, 255).astype(np.uint8)
    assert nearest(worn, handful.images).tolist() == list(range(len(worn)))


def test_a_right_answer_counts(handful: Gallery) -> None:
    questions = [Question(subject.label, frozenset({subject.label})) for subject in handful.subjects]
    assert figures(handful, questions, handful.images).recognised == 1
    assert figures(handful, questions[::-1], handful.images).recognised < 1
    assert figures(handful, questions, handful.images).sharpness == 1
