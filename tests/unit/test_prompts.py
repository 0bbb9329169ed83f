"""The syntax of prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momalisa.domain.prompts import MOST_WEIGHT, Fragment, has_weights, other_syntax, parse


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                *(("a ", 1), ("house", 1.3 * 1.1 * 1.1), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55)),
                *((", sun, ", 1.1), ("sky", 1.1**4), (".", 1.1)),
            ],
        ),
    ],
)
def test_weights_are_read_as_the_web_ui_documents_them(prompt: str, fragments: list[tuple[str, float]]) -> None:
    assert [text for text, _ in parse(prompt)] == [text for text, _ in fragments]
    assert [weight for _, weight in parse(prompt)] == pytest.approx([weight for _, weight in fragments])


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("", [("", 1)]),
        ("()", [("", 1)]),
        ("a cat :)", [("a cat :)", 1)]),
        ("ends at 12:30", [("ends at 12:30", 1)]),
        ("a (cat: .5 )", [("a ", 1), ("cat", 0.5)]),
        ("a (cat:1.2.3)", [("a ", 1), ("cat:1.2.3", 1.1)]),
        ("a (cat:-1)", [("a ", 1), ("cat", -1)]),
        (r"C:\art\\cat", [(r"C:\art\cat", 1)]),
        ("(a cat:1.0)", [("a cat", 1)]),
    ],
)
def test_the_rest_is_words(prompt: str, fragments: list[tuple[str, float]]) -> None:
    assert list(parse(prompt)) == [Fragment(*each) for each in fragments]


@given(st.text(alphabet="ab ()[]\\:.19-+", max_size=60))
def test_every_text_is_read(prompt: str) -> None:
    fragments = parse(prompt)
    letters = [each for each in prompt if each in "ab"]
    assert [each for text, _ in fragments for each in text if each in "ab"] == letters
    assert all(-MOST_WEIGHT <= weight <= MOST_WEIGHT for _, weight in fragments)


@given(st.text())
def test_a_prompt_without_the_syntax_stays_as_it_is(prompt: str) -> None:
    plain = prompt.translate(str.maketrans("", "", "()[]\\"))
    assert parse(plain) == (Fragment(plain, 1.0),)
    assert not has_weights(plain)


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a cat <lora:inks:0.8>, [cat:dog:0.5]", ["<lora:inks:0.8>", "[cat:dog:0.5]"]),
        ("[old: new : .5] [cat|dog] BREAK a cat AND a dog", ["[old: new : .5]", "[cat|dog]", "BREAK", "AND"]),
        ("a break and a (cat:1.3) in [fog] <b> 12:30 BREAKING", []),
    ],
)
def test_what_other_programs_would_read_is_found(prompt: str, found: list[str]) -> None:
    assert other_syntax(prompt) == found
