"""Word tokenizer for text in any language."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces: Chinese, Japanese kana, Korean syllables, Thai.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_RUN = re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])[^\W_])+")


def tokenize(text: str) -> list[str]:
    """Returns the words of a text in order, NFKC-normalized and case-folded; character bigrams for unspaced scripts."""
    tokens: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).casefold()):
        if len(run) > 2 and re.match(f"[{_UNSPACED}]", run):
            tokens += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            tokens.append(run)
    return tokens
