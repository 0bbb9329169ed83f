"""Splitting prompts into windows, and the weights of their tokens."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momalisa.settings import ROOT
from tests.tiny_parts import transformers
from tests.tiny_pipelines import stable_diffusion
from worker.rendering.windows import read, split, tokens

ROOM = 75
TAGS = "ultra detailed, a red house, octane render, soft light, "


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The tokenizer of Stable Diffusion."""
    return transformers.CLIPTokenizer.from_pretrained(ROOT / "models/known/v1/tokenizer")


def count(tokenizer: Any, text: str) -> int:
    return sum(token.width for token in tokens(tokenizer, text))


def test_a_prompt_that_fits_is_one_window_as_it_is(tokenizer: Any) -> None:
    [window], cut_off = read(tokenizer, "a cat, 12:30 :)", 8)
    assert (window.text, set(window.weights), cut_off) == ("a cat, 12:30 :)", {1.0}, None)


def test_windows_end_after_commas(tokenizer: Any) -> None:
    parts = split(tokenizer, TAGS * 12, ROOM)
    assert len(parts) == 3
    assert all(part.endswith(", ") and count(tokenizer, part) > ROOM - 20 for part in parts[:-1])


def test_windows_end_between_words_where_there_are_no_commas(tokenizer: Any) -> None:
    parts = split(tokenizer, "a giraffe beside a battleship " * 40, ROOM)
    assert [count(tokenizer, part) for part in parts[:2]] == [ROOM, ROOM]
    assert all(part.split()[-1] in {"a", "giraffe", "beside", "battleship"} for part in parts)


@given(st.lists(st.text(max_size=200), max_size=8).map(" ".join))
def test_no_window_is_too_long_and_nothing_is_lost(tokenizer: Any, text: str) -> None:
    for room in (5, ROOM):
        parts = split(tokenizer, text, room)
        assert "".join(parts) == text
        assert all(count(tokenizer, part) <= room for part in parts)


def test_words_without_spaces_are_cut_between_characters(tokenizer: Any) -> None:
    parts = split(tokenizer, "富岳三十六景" * 30, ROOM)
    assert len(parts) > 3
    assert all(count(tokenizer, part) <= ROOM for part in parts)


def test_what_is_beyond_the_last_window_is_cut_off(tokenizer: Any) -> None:
    windows, cut_off = read(tokenizer, "word " * 200, 2)
    assert [len(window.weights) for window in windows] == [ROOM, ROOM]
    assert cut_off is not None
    assert cut_off.split() == ["word"] * 150


def test_each_token_has_the_weight_of_its_word(tokenizer: Any) -> None:
    [window], _ = read(tokenizer, "a (red:1.3), [small] house (at:0.5)dawn", 8)
    assert window.text == "a red , small house at dawn"
    weights = [1, 1.3, 1, 1 / 1.1, 1, 0.5, 1]
    assert window.weights == pytest.approx(weights)


def test_the_vectors_of_a_textual_inversion_have_the_weight_of_its_word() -> None:
    pipeline = stable_diffusion()
    pipeline.tokenizer.add_tokens(["<ink>", "<ink>_1", "<ink>_2"])
    [window], _ = read(pipeline.tokenizer, "a (<ink>:1.3) cat", 8)
    stock = pipeline.tokenizer.tokenize(pipeline.maybe_convert_prompt(window.text, pipeline.tokenizer))
    assert len(window.weights) == len(stock)
    heavy = [name for name, weight in zip(stock, window.weights, strict=True) if weight == 1.3]
    assert heavy == ["<ink>", "<ink>_1", "<ink>_2"]


def test_a_textual_inversion_wider_than_a_window_is_cut_between_characters() -> None:
    tokenizer = stable_diffusion().tokenizer
    tokenizer.add_tokens(["<ink>", *(f"<ink>_{number}" for number in range(1, 9))])
    parts = split(tokenizer, "<ink> cat", 5)
    assert "".join(parts) == "<ink> cat"
    assert all(count(tokenizer, part) <= 5 for part in parts)
