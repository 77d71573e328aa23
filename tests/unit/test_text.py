import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.tokenization import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Gaming Mouse, RGB", ["gaming", "mouse", "rgb"]),
        ("笔记本电脑", ["笔记", "记本", "本电", "电脑"]),
        ("电脑", ["电脑"]),
        ("iPhone手机壳 15", ["iphone", "手机", "机壳", "15"]),
        ("ｗｉｄｅ Ｔｅｘｔ", ["wide", "text"]),
        ("Größe — 42_eu", ["grösse", "42", "eu"]),
        ("", []),
    ],
)
def test_words_in_any_language(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_words_do_not_depend_on_case(text: str) -> None:
    assert words(text.casefold()) == words(text) or text.casefold() != text.casefold().casefold()
    assert all(word == word.casefold() and word.strip() == word and word for word in words(text))
