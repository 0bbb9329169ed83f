"""The pins of a walk."""

from momalisa.domain.pins import MAX_MADE_WITH, MadeWith, RenderedFrame, pins


def test_a_walk_that_workers_of_many_kinds_rendered_has_pins() -> None:
    kinds = [MadeWith(revision="r", dtype="float32", device=f"{number:03}".ljust(400, ".")) for number in range(4)]
    made_with = pins(
        [RenderedFrame(number, number / 3, 8, made_with=kind) for number, kind in enumerate(kinds)]
    ).made_with
    assert made_with is not None
    assert (made_with.revision, len(made_with.device)) == ("r", MAX_MADE_WITH)
    assert made_with.device.startswith("000")
