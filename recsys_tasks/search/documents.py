"""Documents of a search index: the fields that an item's texts become."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import tantivy
from tantivy import Query

from recsys_tasks.search.analysis import Analyzer
from recsys_tasks.search.catalog_names import CatalogNames
from recsys_tasks.search.compounds import Compounds
from recsys_tasks.search.spelling import SpellChecker

TITLE, BRAND, CATEGORY, DESCRIPTION, PROPERTIES = "title", "brand", "category", "description", "properties"
JOINED = "joined"  # adjacent words of the title, the brand or a level as one
FIELDS = (TITLE, BRAND, CATEGORY, DESCRIPTION, PROPERTIES, JOINED)
NUMBER = "number"
_CACHED_TEXTS = 1 << 14
_HEAP_BYTES = 32 << 20
_ITEMS_PER_STEP = 250  # between two calls of `pause`

Pause = Callable[[], None]


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in FIELDS:
        builder.add_text_field(name, tokenizer_name="whitespace", index_option="position")
    builder.add_unsigned_field(NUMBER, indexed=True, fast=True)
    return builder.build()


SCHEMA: Final = _schema()


class ItemText(NamedTuple):
    """The texts of an item, empty where unknown; a category path is a list of its levels."""

    number: int
    title: str
    brand: str
    categories: Sequence[str]
    description: str
    properties: str


class DocumentBuilder:
    """Makes documents, and collects the words and names in them.

    Args:
        analyzer: of the texts.
        spelling: gets the words, and has those of earlier documents.
        names: gets the names of brands and category levels.
    """

    def __init__(self, analyzer: Analyzer, spelling: SpellChecker, names: CatalogNames) -> None:
        self.analyzer, self.spelling, self.names = analyzer, spelling, names
        self.compounds = Compounds(analyzer.languages)
        self.compounds.add(map(analyzer.term, spelling.words()))
        self._analyze = lru_cache(_CACHED_TEXTS)(analyzer.analyze)  # items share brand, category and often the title

    def build(self, item: ItemText) -> tantivy.Document:
        """Returns the document of an item."""
        title, brand, *levels = map(self._analyze, (item.title, item.brand, *item.categories))
        texts = (title, brand, *levels)
        words = [word for text in texts for word in text.words]
        self.spelling.add(words)
        self.compounds.add(map(self.analyzer.term, words))
        self.names.put(item.number, [text.terms for text in texts[1:]])
        fields = {
            TITLE: title.terms,
            BRAND: brand.terms,
            JOINED: [term for text in texts for term in text.joined],
            DESCRIPTION: self.analyzer.terms(item.description) if item.description else (),
            PROPERTIES: self.analyzer.terms(item.properties) if item.properties else (),
        }
        document = tantivy.Document()
        for field, terms in fields.items():
            if terms:
                document.add_text(field, " ".join(terms))
        for level in levels:
            document.add_text(CATEGORY, " ".join(level.terms))
        document.add_unsigned(NUMBER, item.number)
        return document


def add_documents(
    index: tantivy.Index, documents: DocumentBuilder, items: Iterable[ItemText], pause: Pause, replaces: bool = True
) -> None:
    """Adds the documents of items to an index.

    Args:
        index: of `SCHEMA`.
        documents: makes the documents.
        items: the texts.
        pause: called every 250 items, to throttle the work.
        replaces: whether earlier documents of the items are deleted.
    """
    writer = index.writer(_HEAP_BYTES, num_threads=1)
    for count, item in enumerate(items, start=1):
        if replaces:
            writer.delete_documents_by_query(Query.term_query(SCHEMA, NUMBER, item.number))
        writer.add_document(documents.build(item))
        if count % _ITEMS_PER_STEP == 0:
            pause()
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
