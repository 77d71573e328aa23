"""Full-text index of item titles, brands and categories, in any language."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tantivy

from recsys_tasks.engine.throttle import Pause, no_pause
from recsys_tasks.features.tokenization import tokenize
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.names import FIRST_ITEM

_TITLE, _CATEGORY, _NUMBER = "title", "category", "number"
_WEIGHTS = {_TITLE: 1.0, _CATEGORY: 0.5}
_HEAP_BYTES = 16 << 20
_MAX_QUERY_WORDS = 32
_ITEMS_PER_STEP = 250  # between two calls of `pause`
_MIN_LETTERS_ONE_EDIT, _MIN_LETTERS_TWO_EDITS = 4, 8  # word lengths from which fuzzy search allows 1 or 2 edits


class TextIndex:
    """In-memory inverted index of a vocabulary's items, scored by BM25 (Robertson and Zaragoza 2009).

    `features.tokenization` splits scripts without spaces into character bigrams, so that the query 笔记本电脑 matches
    笔记本 as well as 电脑.
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
        """Indexes items, replacing their earlier documents.

        Args:
            vocabulary: has the items' texts.
            numbers: item numbers to index.
            new: skips the deletion of earlier documents, for items that have none.
            pause: called every 250 items, to throttle the work.
        """
        writer = self._index.writer(_HEAP_BYTES, num_threads=1)
        for number in numbers:
            row = number - FIRST_ITEM
            if not new:
                writer.delete_documents_by_term(_NUMBER, number)
            document = tantivy.Document()
            document.add_text(_TITLE, " ".join(tokenize(f"{vocabulary.titles[row]} {vocabulary.brands[row]}")))
            document.add_text(_CATEGORY, " ".join(tokenize(vocabulary.category_paths[row])))
            document.add_unsigned(_NUMBER, number)
            writer.add_document(document)
            if number % _ITEMS_PER_STEP == 0:
                pause()
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, query: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers [N] and BM25 scores [N] of the items that match a query, best first.

        A query word that occurs in no item matches words at edit distance 1, or 2 if it is long.

        Args:
            query: text in any language.
            k: maximum number of items.
        """
        unique_words = dict.fromkeys(tokenize(query)[:_MAX_QUERY_WORDS])
        clauses = [clause for word in unique_words for clause in self._word_queries(word)]
        if not clauses:
            return np.zeros(0, np.int64), np.zeros(0)
        disjunction = tantivy.Query.boolean_query([(tantivy.Occur.Should, clause) for clause in clauses])
        hits = self._searcher.search(disjunction, k, count=False).hits
        numbers = [self._searcher.doc(address)[_NUMBER][0] for _, address in hits]
        return np.asarray(numbers, np.int64), np.asarray([score for score, _ in hits], np.float64)

    def _word_queries(self, word: str) -> list[tantivy.Query]:
        """Returns one query per field: exact where a field contains the word, otherwise fuzzy."""
        exact = [
            tantivy.Query.boost_query(tantivy.Query.term_query(self._schema, field, word), weight)
            for field, weight in _WEIGHTS.items()
            if self._searcher.doc_freq(field, word)
        ]
        if exact or len(word) < _MIN_LETTERS_ONE_EDIT:
            return exact
        edits = 1 if len(word) < _MIN_LETTERS_TWO_EDITS else 2
        return [
            tantivy.Query.boost_query(tantivy.Query.fuzzy_term_query(self._schema, field, word, edits), weight)
            for field, weight in _WEIGHTS.items()
        ]
