import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_tasks.features.tokenization import tokenize


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
def test_text_in_any_language_is_tokenized(text: str, expected: list[str]) -> None:
    assert tokenize(text) == expected


@given(st.text())
def test_tokens_do_not_depend_on_case(text: str) -> None:
    assert tokenize(text.casefold()) == tokenize(text) or text.casefold() != text.casefold().casefold()
    assert all(word == word.casefold() and word.strip() == word and word for word in tokenize(text))
