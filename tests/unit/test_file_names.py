"""The names of files."""

from uuid import UUID

import pytest

from momalisa.domain.file_names import file_name, slug


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["a giraffe", "a battleship"], "a-giraffe-to-a-battleship"),
        (["Mona Lisa!", " the   Scream "], "mona-lisa-to-the-scream"),
        (["../../etc/passwd", 'a"b'], "etc-passwd-to-a-b"),
        (["crème brûlée", "Щит"], "crème-brûlée-to-щит"),
        (["モナ・リザ", "叫び"], "モナ-リザ-to-叫び"),
        (["猫", "犬"], "猫-to-犬"),
        (["a 👩\u200d🚀", "\u202eb"], "a-👩🚀-to-b"),
        (["…", "?"], "walk"),
        (["x" * 300, "y"], "x" * 80),
        (["あ" * 100, "y"], "あ" * 60),  # of three bytes each
        (["x" * 79 + "นี้", "y"], "x" * 79),  # a letter is not cut from its marks
    ],
)
def test_a_file_name_contains_the_prompts_in_any_script(prompts: list[str], expected: str) -> None:
    assert slug(prompts) == expected


def test_walks_with_the_same_prompts_have_files_with_different_names() -> None:
    assert file_name(["a cat", "a dog"], UUID(int=1 << 127)) == "a-cat-to-a-dog-8000"
    assert file_name(["a cat", "a dog"], str(UUID(int=3 << 126))) == "a-cat-to-a-dog-c000"
