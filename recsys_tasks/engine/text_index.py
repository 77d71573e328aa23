"""Items by the words of their titles, brands and categories, in any language."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tantivy

from recsys_tasks.engine.throttle import Pause, no_pause
from recsys_tasks.features.tokenization import words
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

_TITLE, _CATEGORY, _NUMBER = "title", "category", "number"
_WEIGHTS = {_TITLE: 1.0, _CATEGORY: 0.5}
_HEAP_BYTES = 16 << 20
_MOST_WORDS = 32
_PIECE = 250  # items
_FUZZY_FROM, _FUZZIER_FROM = 4, 8  # letters of a word in which one letter, or two, may be wrong


class TextIndex:
    """An index in memory over the items of a vocabulary.

    Texts are parted into words by `features.text`, which pairs up the signs of scripts without spaces, so that
    笔记本电脑 finds 笔记本 as well as 电脑. What is found is scored by BM25 (Robertson and Zaragoza 2009).
    """

    def __init__(self, vocabulary: Vocabulary, pause: Pause = no_pause) -> None:
        builder = tantivy.SchemaBuilder()
        for name in _WEIGHTS:
            builder.add_text_field(name, tokenizer_name="whitespace", index_option="freq")
        builder.add_unsigned_field(_NUMBER, stored=True, indexed=True)
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        self.put(vocabulary, range(FIRST_ITEM, len(vocabulary)), new=True, pause=pause)

    def put(self, vocabulary: Vocabulary, numbers: Iterable[int], new: bool = False, pause: Pause = no_pause) -> None:
        """Takes in items of a vocabulary, in place of what was known of them unless all are new."""
        writer = self._index.writer(_HEAP_BYTES, num_threads=1)
        for number in numbers:
            place = number - FIRST_ITEM
            if not new:
                writer.delete_documents_by_term(_NUMBER, number)
            document = tantivy.Document()
            document.add_text(_TITLE, " ".join(words(f"{vocabulary.titles[place]} {vocabulary.brands[place]}")))
            document.add_text(_CATEGORY, " ".join(words(vocabulary.category_paths[place])))
            document.add_unsigned(_NUMBER, number)
            writer.add_document(document)
            if number % _PIECE == 0:
                pause()
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def find(self, query: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers [N] and scores [N] of the items that have words of a query, best first.

        A word that no item has counts as those that differ from it by a letter, or two in a long one.

        Args:
            query: in any language.
            most: how many items, at most.
        """
        parts = [part for word in dict.fromkeys(words(query)[:_MOST_WORDS]) for part in self._of_word(word)]
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0)
        either = tantivy.Query.boolean_query([(tantivy.Occur.Should, part) for part in parts])
        hits = self._searcher.search(either, most, count=False).hits
        numbers = [self._searcher.doc(address)[_NUMBER][0] for _, address in hits]
        return np.asarray(numbers, np.int64), np.asarray([score for score, _ in hits], np.float64)

    def _of_word(self, word: str) -> list[tantivy.Query]:
        exact = [
            tantivy.Query.boost_query(tantivy.Query.term_query(self._schema, field, word), weight)
            for field, weight in _WEIGHTS.items()
            if self._searcher.doc_freq(field, word)
        ]
        if exact or len(word) < _FUZZY_FROM:
            return exact
        wrong = 1 if len(word) < _FUZZIER_FROM else 2
        return [
            tantivy.Query.boost_query(tantivy.Query.fuzzy_term_query(self._schema, field, word, wrong), weight)
            for field, weight in _WEIGHTS.items()
        ]
