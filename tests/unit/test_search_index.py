"""Search in texts of any language."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from icu4py.breakers import WordBreaker

from recsys_tasks.errors import ConfigurationError, InputError
from recsys_tasks.search.analysis import Analyzer
from recsys_tasks.search.documents import ItemText
from recsys_tasks.search.index import Matches, SearchIndex
from recsys_tasks.search.languages import resolve_languages
from recsys_tasks.search.settings import read_search_settings
from recsys_tasks.wire.rules import MerchandisingRules, Synonym

LANGUAGES = ("english", "russian", "hindi")
SHOP = [
    # title, brand, category levels, description, properties
    ("联想 ThinkPad 笔记本电脑 14 英寸", "", ["电脑"], "", ""),
    ("ASUS Zenbook 14 laptop", "ASUS", ["Computers", "Notebooks"], "Light and silent", "16 GB , silver"),
    ("铝合金笔记本支架", "", ["电脑", "电脑配件"], "", ""),
    ("USB-C 数据线", "", ["电脑", "电脑配件"], "", ""),
    ("罗技 G502 游戏鼠标", "Logitech", ["电脑", "鼠标"], "", ""),
    ("男士跑步鞋 透气", "", ["鞋"], "", ""),
    ("机械键盘 87键", "", ["电脑", "键盘"], "", ""),
    ("Logitech M185 wireless mouse", "Logitech", ["Computers", "Mice"], "For laptops", "2.4 GHz"),
    ("Tasse à café, rouge", "", ["Kitchen", "Cups"], "", "ceramic"),
    ("Зелёный чай", "", ["Kitchen", "Tea"], "", ""),
    ("पुरुषों के जूते", "", [], "", ""),
    ("जाति का इतिहास", "", [], "", ""),
    ("รองเท้าวิ่ง", "", [], "", ""),
    ("Vanilla ice cream 500 ml", "", ["Food", "Frozen"], "", ""),
    ("Cola can, 12 oz", "Coca-Cola", ["Food", "Drinks"], "", ""),
    ("Beef steak", "", ["Food", "Meat"], "", ""),
    ("Lager, six cans", "", ["Food", "Beers"], "Goes with beef", ""),
    ("Peanut butter cookies", "", ["Food", "Cookies"], "", ""),
    ("Headset with microphone", "", ["Computers", "Headsets"], "", ""),
    ("The complete guide to butter and peanuts", "", ["Books"], "", ""),
    ("Türkische Süßigkeiten", "", ["Food"], "", ""),
    ("", "", [], "", ""),  # an item without text
]


def _index(
    items: Sequence[tuple[str, str, list[str], str, str]], synonyms: str = "", languages: Sequence[str] = LANGUAGES
) -> SearchIndex:
    settings = msgspec.structs.replace(read_search_settings(None), languages=list(languages), synonyms=synonyms)
    texts = [ItemText(number, *item) for number, item in enumerate(items)]
    return SearchIndex.of_items(settings, texts, (), lambda: None)


@pytest.fixture(scope="module")
def index() -> SearchIndex:
    return _index(SHOP)


def _titles(matches: Matches) -> list[str]:
    return [SHOP[number][0] for number in matches.numbers.tolist()]


def _find(index: SearchIndex, query: str) -> list[str]:
    matches = index.find(query, 100)
    order = sorted(range(len(matches.numbers)), key=lambda row: -(matches.coverage + matches.text)[row])
    titles = _titles(matches)
    return [titles[row] for row in order]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        pytest.param("笔记本电脑", "联想 ThinkPad 笔记本电脑 14 英寸", id="Chinese"),
        pytest.param("筆記本電腦", "联想 ThinkPad 笔记本电脑 14 英寸", id="traditional for simplified"),
        pytest.param("游戏鼠标", "罗技 G502 游戏鼠标", id="Chinese words"),
        pytest.param("鞋", "男士跑步鞋 透气", id="a single sign"),
        pytest.param("跑鞋", "男士跑步鞋 透气", id="a contraction"),
        pytest.param("键 盘", "机械键盘 87键", id="a blank inside a word"),
        pytest.param("THINKPAD 笔记本", "联想 ThinkPad 笔记本电脑 14 英寸", id="mixed scripts"),
        pytest.param("ｌａｐｔｏｐ", "ASUS Zenbook 14 laptop", id="full width"),
        pytest.param("wireless mouse", "Logitech M185 wireless mouse", id="two words"),
        pytest.param("mice", "Logitech M185 wireless mouse", id="name of a category"),
        pytest.param("cafe rouge", "Tasse à café, rouge", id="without accents"),
        pytest.param("зеленый чай", "Зелёный чай", id="Cyrillic"),
        pytest.param("जूते", "पुरुषों के जूते", id="Hindi keeps its vowel signs"),
        pytest.param("जाति", "जाति का इतिहास", id="another Hindi word"),
        pytest.param("รองเท้า", "รองเท้าวิ่ง", id="Thai has no blanks"),
        pytest.param("icecream", "Vanilla ice cream 500 ml", id="two words as one"),
        pytest.param("head set", "Headset with microphone", id="one word as two"),
        pytest.param("peanutbutter cookie", "Peanut butter cookies", id="joined and singular"),
        pytest.param("12oz", "Cola can, 12 oz", id="a number with its unit"),
        pytest.param("500ml", "Vanilla ice cream 500 ml", id="millilitres"),
        pytest.param("coca cola", "Cola can, 12 oz", id="a brand without its hyphen"),
        pytest.param("beer", "Lager, six cans", id="not a similar word"),
        pytest.param("the headset", "Headset with microphone", id="stop words weigh little"),
        pytest.param("silver", "ASUS Zenbook 14 laptop", id="a property"),
        pytest.param("ceramic cup", "Tasse à café, rouge", id="a property and a category"),
        pytest.param("süssigkeiten", "Türkische Süßigkeiten", id="sharp s"),
    ],
)
def test_the_item_that_people_mean_comes_first(index: SearchIndex, query: str, first: str) -> None:
    assert _find(index, query)[0] == first


def test_the_signs_of_a_word_belong_together() -> None:
    phones: list[tuple[str, str, list[str], str, str]] = [
        (f"智能手机 {number}", "", [], "", "") for number in range(12)
    ]
    index = _index([("手动咖啡机", "", [], "", ""), *phones])
    assert 0 not in index.find("手机", 100).numbers, "the coffee machine has both signs, but apart"
    few = _index([("手动咖啡机", "", [], "", ""), *phones[:2]]).find("手机", 100)
    assert dict(zip(few.numbers.tolist(), few.coverage.tolist(), strict=True)) == {1: 1, 2: 1, 0: 0.5}


def test_items_with_all_words_come_before_items_with_some(index: SearchIndex) -> None:
    found = _find(index, "peanut butter cookies")
    assert found[0] == "Peanut butter cookies"
    assert "The complete guide to butter and peanuts" in found[1:]


@pytest.mark.parametrize(
    ("query", "first", "correction"),
    [("lapotp", "ASUS Zenbook 14 laptop", "laptop"), ("wirless mouse", "Logitech M185 wireless mouse", "wireless")],
)
def test_a_misspelled_word_is_corrected_and_told(index: SearchIndex, query: str, first: str, correction: str) -> None:
    assert _find(index, query)[0] == first
    assert [entry.searched for entry in index.find(query, 10).relaxations if entry.kind == "spelling"] == [correction]


def test_a_correction_keeps_the_first_letter_and_never_replaces_a_known_word(index: SearchIndex) -> None:
    assert _find(index, "nouse") == []
    assert not index.find("mouse", 10).relaxations


def test_a_phrase_in_quotes_must_occur_as_it_is(index: SearchIndex) -> None:
    assert _find(index, '"peanut butter"') == ["Peanut butter cookies"]


def test_a_minus_excludes_items(index: SearchIndex) -> None:
    assert "Peanut butter cookies" not in _find(index, "peanut -cookies")
    assert _find(index, "peanut -cookies")
    assert _find(index, "-zenbook"), "a query of exclusions alone is read as plain words"


def test_fewer_words_are_required_where_no_item_has_all(index: SearchIndex) -> None:
    matches = index.find("wireless mouse xylophone", 10)
    assert _titles(matches)[0] == "Logitech M185 wireless mouse"
    assert [(entry.kind, entry.searched) for entry in matches.relaxations] == [("words", "2 of 3 words")]


def test_an_unfinished_last_word_is_completed(index: SearchIndex) -> None:
    assert _titles(index.find("wirele", 10, is_prefix=True))[0] == "Logitech M185 wireless mouse"
    assert _titles(index.find("asus zenb", 10, is_prefix=True))[0] == "ASUS Zenbook 14 laptop"


def test_the_name_of_a_category_or_brand_is_told(index: SearchIndex) -> None:
    matches = index.find("logitech mice", 10)
    share_of = dict(zip(_titles(matches), matches.name.tolist(), strict=True))
    assert share_of["Logitech M185 wireless mouse"] == 0.5


def test_a_word_finds_its_compounds_after_itself() -> None:
    titles = ["Damen Laufschuhe", "Schuhe aus Leder", "Kaffeemaschine", "Maschine", "Kaffee", "Lauf"]
    titles += ["Geburtstagskarte", "Geburtstag", "Landkarten", "Karte", "Überhead"]
    index = _index([(title, "", [], "", "") for title in titles], languages=["german"])
    expected = {"Schuh": ["Schuhe aus Leder", "Damen Laufschuhe"], "maschinen": ["Maschine", "Kaffeemaschine"]}
    expected["Karten"] = ["Karte", "Geburtstagskarte"]  # no item has the first part of Landkarten
    for query, found in expected.items():
        matches = index.find(query, 10)
        assert [titles[number] for number in matches.numbers[np.argsort(-matches.text)].tolist()] == found, query
    assert index.find("head", 10).total == 0


def test_an_item_that_is_put_again_is_found_by_its_new_text_only() -> None:
    index = _index(SHOP[:3])
    index.put([ItemText(1, "Dell monitor", "Dell", [], "", "")])
    assert index.find("zenbook", 10).total == 0
    assert index.find("monitor", 10).numbers.tolist() == [1]


def test_searches_during_updates_find_the_right_items() -> None:
    index = _index(SHOP)
    wanted = SHOP.index(next(item for item in SHOP if item[0] == "Beef steak"))

    def update(round_: int) -> None:
        index.put([ItemText(len(SHOP) + number, f"Update {round_}", "", [], "", "") for number in range(5)])

    with ThreadPoolExecutor(1) as pool:
        updates = [pool.submit(update, round_) for round_ in range(20)]
        while not all(done.done() for done in updates):
            assert index.find("beef steak", 10).numbers[0] == wanted
        assert all(done.exception() is None for done in updates)


def test_highlights_mark_the_matching_words_and_escape_the_rest(index: SearchIndex) -> None:
    terms = index.find("laptops 电脑", 10).terms
    assert index.highlight("<b>Laptop</b> 笔记本电脑 & more", terms) == (
        "&lt;b&gt;<em>Laptop</em>&lt;/b&gt; 笔记本<em>电脑</em> &amp; more"
    )


@pytest.mark.parametrize(
    "query",
    [
        *(
            "",
            "   ",
            "!?",
            "冰箱门",
            "\x00",
            "🎧🎧",
            "NAND (",
            "xyzzy:*",
            '"',
            "-",
            "--",
            "'; DROP TABLE items; --",
        ),
        *("<script>alert(1)</script>", "a" * 10_000, "שלום עולם", '"' * 5_000, "- " * 5_000, "\u202ertl\u202c"),
    ],
)
def test_a_query_without_matches_returns_no_item(index: SearchIndex, query: str) -> None:
    assert index.find(query, 100).total == 0


def test_many_identical_titles_are_all_found() -> None:
    index = _index([("Identical title", "", ["Same"], "", "")] * 50_000)
    matches = index.find("identical titel", 100)
    assert (matches.total, len(set(matches.numbers.tolist()))) == (50_000, 100)


@given(st.text(max_size=60))
def test_any_text_is_a_query(query: str) -> None:
    index = _ANY_INDEX
    matches = index.find(query, 5)
    assert len(set(matches.numbers.tolist())) == len(matches.numbers) <= 5
    assert len(matches.numbers) <= matches.total


_ANY_INDEX = _index(SHOP)


@given(st.text(st.sampled_from("ab1 2_.,;:'\"-/Z9%$\n\r"), max_size=12))
def test_words_of_ascii_text_are_those_of_icu(text: str) -> None:
    segments = [
        (start, end) for start, end in WordBreaker(text, "en").segments() if any(map(str.isalnum, text[start:end]))
    ]
    words = Analyzer().words(text)
    assert [text[start:end] for start, end in segments] == _joined_ranges(text, [(w.start, w.end) for w in words])


def _joined_ranges(text: str, ranges: list[tuple[int, int]]) -> list[str]:
    """Texts of ranges; a number and its unit count as one."""
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start and text[start - 1].isdigit() and text[start].isalpha():
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return [text[start:end] for start, end in joined]


def test_positions_are_those_of_the_text_after_an_emoji() -> None:
    text = "😀 laptop 𠮷野家"
    assert [text[word.start : word.end] for word in Analyzer().words(text)] == ["laptop", "𠮷", "野", "家"]


def test_languages_are_detected_for_each_script() -> None:
    german = ["Rote Hose für Damen", "Schwarzer Mantel mit Kapuze", "Kinderschuhe aus echtem Leder"] * 5
    russian = ["Зелёный чай листовой", "Чёрный шоколад с орехами"] * 10
    assert set(resolve_languages(["auto"], [*german, *russian])) == {"german", "russian"}
    assert resolve_languages(["auto"], []) == ("english",)
    assert resolve_languages(["french"], german) == ("french",)


def test_a_language_without_stemmer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="No stemmer for klingon"):
        Analyzer(("klingon",))


def test_synonyms_are_honored_also_in_a_cycle(tmp_path: Path) -> None:
    file = tmp_path / "synonyms.txt"
    file.write_text(
        "# laptops\nnotebook, laptop\nlaptop, portable computer\nportable computer, notebook\n苹果 => zenbook\n"
    )
    index = _index(SHOP, str(file))
    assert _find(index, "portable computer")[0] == "ASUS Zenbook 14 laptop"
    assert _find(index, "苹果") == ["ASUS Zenbook 14 laptop"]
    assert "苹果" not in "".join(_find(index, "zenbook"))


@pytest.mark.parametrize(("content", "problem"), [("laptop\n", "line 1"), ("a, b\n=> c\n", "line 2")])
def test_an_invalid_synonym_file_is_refused_with_its_line(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "synonyms.txt"
    file.write_text(content)
    with pytest.raises(InputError, match=problem):
        _index(SHOP, str(file))


def test_settings_of_a_shop_are_completed_by_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_text('languages = ["german"]\nsynonyms = "words.txt"\n[fields]\ntitle = 3\n')
    settings = read_search_settings(file)
    assert (settings.languages, settings.fields.title) == (["german"], 3)
    assert settings.fields.brand == read_search_settings(None).fields.brand
    assert settings.synonyms == str(tmp_path / "words.txt")


@pytest.mark.parametrize("content", ["languages = 1", "[fields]\ntitel = 1", "[signals]\ntext = -1", "x ="])
def test_invalid_settings_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "search.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=r"search\.toml"):
        read_search_settings(file)


def test_synonyms_of_rules_find_what_they_mean_and_not_the_other_way_round(index: SearchIndex) -> None:
    rules = MerchandisingRules(synonyms=[Synonym("Vacuum", "wireless mouse"), Synonym("mouse", "headset")])
    synonyms = [index.synonyms(rules)]
    assert index.find("vacuum", 10).total == 0
    found = index.find("vacuum", 10, synonyms=synonyms)
    assert _titles(found)[0] == "Logitech M185 wireless mouse"
    assert "<em>wireless</em>" in index.highlight("A wireless mouse", found.terms)
    rules = MerchandisingRules(synonyms=[Synonym("notepad", "asus silent"), Synonym("odd", "asus wireless")])
    apart = [index.synonyms(rules)]
    assert _titles(index.find("notepad", 10, synonyms=apart)) == ["ASUS Zenbook 14 laptop"], "in title and description"
    assert index.find("odd", 10, synonyms=apart).total == 0, "an item needs all words"
    lengths = MerchandisingRules(synonyms=[Synonym("notepad", "asus laptop"), Synonym("note pad", "wireless mouse")])
    assert _titles(index.find("notepad", 10, synonyms=[index.synonyms(lengths)])) == ["ASUS Zenbook 14 laptop"]
    meanings = MerchandisingRules(
        synonyms=[Synonym("trainers", "跑鞋"), Synonym("stand", "笔记本 支架"), Synonym("beer", "the lager for cans")]
    )
    for phrase, title in (("trainers", "男士跑步鞋 透气"), ("stand", "铝合金笔记本支架"), ("beer", "Lager, six cans")):
        assert _titles(index.find(phrase, 10, synonyms=[index.synonyms(meanings)]))[0] == title
    coffee_machine = _index([("手动咖啡机", "", [], "", "")])
    signs = [coffee_machine.synonyms(MerchandisingRules(synonyms=[Synonym("telephone", "手机")]))]
    assert coffee_machine.find("telephone", 10, synonyms=signs).total == 0, "it has both signs, but apart"
    assert "Headset with microphone" in _titles(index.find("mouse", 10, synonyms=synonyms))
    assert "Logitech M185 wireless mouse" not in _titles(index.find("headset", 10, synonyms=synonyms))
