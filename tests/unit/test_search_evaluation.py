"""Metrics of search, from judged queries."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_tasks.errors import InputError
from recsys_tasks.evaluation.search import JudgedQuery, evaluate_search, read_judged_queries
from recsys_tasks.wire.items import Relaxation, SearchResult
from recsys_tasks.wire.messages import SearchRequest, SearchResponse


def _file(folder: Path, content: str) -> Path:
    path = folder / "judged.csv"
    path.write_text(content, encoding="utf-8")
    return path


def _response(*item_ids: str, fallback: bool = False, corrected: bool = False) -> SearchResponse:
    items = [SearchResult(i, i, 1.0, "search", "", data={"category": f"Food > {i}"}) for i in item_ids]
    relaxations = [Relaxation("spelling", "a", "b")] if corrected else []
    return SearchResponse("r", "1", None, True, False, fallback=fallback, items=items, relaxations=relaxations)


def test_judgements_are_read_from_a_file(tmp_path: Path) -> None:
    rows = "beer,1,,3,head,9\nbeer,2,,0,,\nmilk,,Food > Milk,,,\n"
    beer, milk = read_judged_queries(_file(tmp_path, "query,item_id,category,rating,class,searches\n" + rows))
    assert beer == JudgedQuery("beer", {"1": 3, "2": 0}, {}, {"head"}, 9)
    assert milk == JudgedQuery("milk", {}, {"Food > Milk": 1})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("query,price\nbeer,1\n", "columns query, price"),
        ("query,item_id\n,1\n", "line 2"),
        ("query,item_id,category\nbeer,1,Food\n", "line 2"),
        ("query,item_id,rating\nbeer,1,2\nbeer,2,eleven\n", "line 3"),
        ("query,item_id,rating\nbeer,1,11\n", "between 0 and 10"),
        ("query,item_id\n", "no judgement"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_judged_queries(_file(tmp_path, content))
    with pytest.raises(InputError, match="cannot be read"):
        read_judged_queries(tmp_path / "missing.csv")


def test_a_perfect_order_has_the_highest_scores_and_an_unjudged_item_costs_some() -> None:
    query = JudgedQuery("beer", {"a": 3, "b": 1, "c": 0})
    perfect = evaluate_search([query], lambda _: _response("a", "b"))["all"]
    assert (perfect["ndcg_10"], perfect["mrr"], perfect["recall_100"]) == (1, 1, 1)
    assert perfect["precision_5"] == 0.4
    mixed = evaluate_search([query], lambda _: _response("x", "a", "c", "b"))["all"]
    assert 0 < mixed["ndcg_10"] < mixed["ndcg_10_judged"] < 1
    assert mixed["mrr"] == 0.5


def test_categories_judge_all_their_items() -> None:
    query = JudgedQuery("beer", {}, {"Food > beer": 1})
    metrics = evaluate_search([query], lambda _: _response("beer", "beer and more", "beer"))["all"]
    assert metrics["precision_5"] == 0.4, "a category is not a prefix of a text"


def test_recommendations_instead_of_results_are_zero_hits() -> None:
    metrics = evaluate_search([JudgedQuery("beer", {"a": 1})], lambda _: _response("a", fallback=True))["all"]
    assert (metrics["zero_hit_rate"], metrics["ndcg_10"]) == (1, 0)


def test_queries_are_reported_by_class() -> None:
    queries = [
        JudgedQuery("beer", {"a": 1}, searches=100),
        JudgedQuery("wine", {"a": 1}, searches=30),
        JudgedQuery("啤酒", {"a": 1}, searches=20, labels={"translated"}),
    ]

    def search(request: SearchRequest) -> SearchResponse:
        return _response("a", corrected=request.query == "wine")

    found = evaluate_search(queries, search)
    counts = {label: metrics["queries"] for label, metrics in found.items()}
    assert counts == {
        **{"all": 3, "head": 1, "tail": 2, "corrected": 1},
        **{"script latin": 2, "script cjk": 1, "translated": 1},
    }
