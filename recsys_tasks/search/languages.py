"""Language detection: the stemmers of a catalog, from its titles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice

from recsys_tasks.search.analysis import script_of, stemmed_languages

AUTO = "auto"
_DEFAULT = ("english",)
_MAX_TITLES, _MAX_WORDS = 2_000, 3_000
_MIN_WORDS = 20  # of a script, fewer say nothing
_NAME_OF = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french", "ga": "irish",
    "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian",
    "nb": "norwegian", "ne": "nepali", "nl": "dutch", "nn": "norwegian", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish",
}  # fmt: skip


def resolve_languages(configured: Sequence[str], titles: Iterable[str]) -> tuple[str, ...]:
    """Returns the languages of the settings, or those detected from titles where the settings say `auto`.

    The words of each script are classified together (langid, Lui and Baldwin 2012), since single titles are too short
    and full of names. English is the default.
    """
    if AUTO not in configured:
        return tuple(configured)
    words: dict[str, list[str]] = defaultdict(list)
    for title in islice(titles, _MAX_TITLES):
        for word in title.casefold().split():
            if word.isalpha():
                words[script_of(word)].append(word)
    detected = [_detect(found) for found in words.values() if len(found) >= _MIN_WORDS]
    languages = [language for language in detected if language in stemmed_languages()]
    return tuple(dict.fromkeys([*(name for name in configured if name != AUTO), *languages])) or _DEFAULT


def _detect(words: list[str]) -> str:
    from py3langid.langid import classify  # its model takes a while to load

    return _NAME_OF.get(classify(" ".join(words[:_MAX_WORDS]))[0], "")
