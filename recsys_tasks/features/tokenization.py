"""Words of a text in any language."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces: Chinese, Japanese kana, Korean syllables, Thai.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_RUN = re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])[^\W_])+")


def words(text: str) -> list[str]:
    """Words in the order of the text, without regard to case and width; pairs of signs where nothing parts words."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).casefold()):
        if len(run) > 2 and re.match(f"[{_UNSPACED}]", run):
            found += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            found.append(run)
    return found
