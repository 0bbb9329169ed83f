import pytest

from momalisa.spec import slug


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["a giraffe", "a battleship"], "a-giraffe-to-a-battleship"),
        (["Mona Lisa!", " the   Scream "], "mona-lisa-to-the-scream"),
        (["../../etc/passwd", 'a"b'], "etc-passwd-to-a-b"),
        (["モナ・リザ", "叫び"], "walk"),
        (["x" * 300, "y"], "x" * 80),
    ],
)
def test_a_file_name_tells_the_walk_in_plain_ascii(prompts: list[str], expected: str) -> None:
    assert slug(prompts) == expected
