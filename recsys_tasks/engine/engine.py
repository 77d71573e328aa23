"""The inference engine of one model: ranks items for a user and a session."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from recsys_tasks.engine.bundle import SCAN, Bundle
from recsys_tasks.engine.explanations import (
    MATCHES_INTERESTS,
    MATCHES_QUERY,
    PINNED,
    POPULAR,
    TRENDING,
    ActionHistory,
    Explainer,
    Explanation,
)
from recsys_tasks.engine.facets import count_facet
from recsys_tasks.engine.graphs import Graph
from recsys_tasks.engine.impression_discounting import DiscountedItems
from recsys_tasks.engine.item_updates import ItemUpdate, apply_item_updates
from recsys_tasks.engine.ranking import ExploredPositions, ListOptions, RankedList, Ranker
from recsys_tasks.engine.scoring import (
    BlendedScores,
    LiftedScores,
    MatchScores,
    NextItemScores,
    PrecomputedScores,
    PredictionScores,
    TrendingItems,
    top_indices,
)
from recsys_tasks.engine.search_options import COMPLETION, DEFAULT_SEARCH, RELEVANCE, SearchOptions, SearchSetup
from recsys_tasks.engine.second_stage import (
    NUM_CANDIDATES,
    NUM_FETCHED,
    CandidateFeatures,
    Candidates,
    SecondStage,
    Situation,
)
from recsys_tasks.engine.session_decoder import (
    DEFAULT_CACHE_BYTES,
    Action,
    SessionDecoder,
    events_before,
    predict_session_intent,
)
from recsys_tasks.engine.throttle import Pause, no_pause
from recsys_tasks.engine.trending import RecentPopularity
from recsys_tasks.errors import GoldenMismatch, InputError
from recsys_tasks.names import EVENT_TYPE_CODES, FIRST_ITEM, PERSONAL_FREQUENCY, PURCHASE
from recsys_tasks.search.settings import read_search_settings
from recsys_tasks.wire.items import FacetValue, Item, Recommendation, Relaxation, SearchResult
from recsys_tasks.wire.rules import MerchandisingRules

if TYPE_CHECKING:
    from recsys_tasks.engine.item_search import ItemSearch, RankedMatches
    from recsys_tasks.search.plan import Meaning
    from recsys_tasks.search.synonyms import Synonyms

MODEL: Final = "model"
POPULARITY: Final = "popularity"
NEIGHBORS: Final = "neighbours"
Method = Literal["model", "popularity", "neighbours", "personal_frequency"]

_HALF_LIFE_SECONDS = 30 * 86_400.0  # of a user's interest in an item
_NEIGHBOR_ACTIONS, _NEIGHBOR_DECAY = 10, 0.7  # latest actions that neighbors are searched for; weight per step back
_WARM_UP_SECONDS = 2.0
_TOLERANCE = 1e-4


class Timings(NamedTuple):
    """Seconds per stage of one answer, and whether the history was cached."""

    history_cached: bool
    history: float
    decoder: float
    ranking: float = 0.0


class Answer(NamedTuple):
    """The engine's answer to one request.

    Attributes:
        items: best first.
        purchase_intent: probability that the session has a purchase from here on; None where the model did not score,
            or has no purchase intent because its training sessions all had a purchase, or none had.
        explored: how exploration filled the positions; None without exploration.
        timings: seconds per stage; None where the model did not score.
    """

    items: list[Recommendation]
    purchase_intent: float | None
    explored: ExploredPositions | None = None
    timings: Timings | None = None


class SearchAnswer(NamedTuple):
    """The engine's answer to one search.

    Attributes:
        answer: a page of results.
        total: number of items that match; exact up to 10,000 where filters apply.
        reachable: number of results on all pages.
        facets: counts of the values of each requested field.
        relaxations: how the query was changed to find them.
    """

    answer: Answer
    total: int
    reachable: int
    facets: dict[str, list[FacetValue]]
    relaxations: tuple[Relaxation, ...]


NO_RESULTS: Final = SearchAnswer(Answer([], None), 0, 0, {}, ())


class _Prediction(NamedTuple):
    """Item scores, their source (`model`, `popular`, `neighbours`, `personal_frequency`) and the signals that adjust
    them."""

    source: str
    scores: PredictionScores
    purchase_intent: float | None
    actions: ActionHistory
    latest_seconds: float
    timings: Timings | None = None
    situation: Situation | None = None
    trending: TrendingItems | LiftedScores | None = None
    discounts: DiscountedItems | None = None


class LiveSignals(NamedTuple):
    """Signals that are newer than the model: recent organic popularity, and the user's unclicked impressions by item
    id."""

    recent_popularity: RecentPopularity | None = None
    unclicked_impressions: Mapping[str, float] = MappingProxyType({})


NO_SIGNALS: Final = LiveSignals()


class Engine:
    """Runs the ONNX graphs of one bundle and ranks by merchandising rules. Not thread-safe.

    Args:
        bundle: the model with its catalog and user histories.
        rules: merchandising rules of the shop.
        cache_bytes: limit of the history and session caches.
        pause: called after each step of the construction, to throttle it.
        search_setup: of the shop; None for the defaults.
    """

    def __init__(
        self,
        bundle: Bundle,
        rules: MerchandisingRules | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        pause: Pause = no_pause,
        search_setup: SearchSetup | None = None,
    ) -> None:
        self._rules = rules
        self._search_setup = search_setup
        self._num_trained = bundle.vocabulary.num_trained
        self._set_bundle(bundle)
        pause()
        self._session_decoder = SessionDecoder(bundle, cache_bytes)
        pause()
        self._scan = Graph(bundle.folder / SCAN)
        self._second_stage = SecondStage.of(bundle)

    def with_items(self, updates: Mapping[str, ItemUpdate]) -> Engine:
        """Returns an engine with item updates applied; it shares all unchanged parts with this one."""
        engine = copy.copy(self)
        engine._set_bundle(apply_item_updates(self.bundle, updates))
        engine._session_decoder = self._session_decoder.with_bundle(engine.bundle, updates)
        engine._item_search = self._item_search.with_items(engine.bundle, updates)
        engine._second_stage = self._second_stage and self._second_stage.with_bundle(engine.bundle)
        engine._explainer.prepare()
        return engine

    def with_rules(self, rules: MerchandisingRules) -> Engine:
        """Returns an engine with other merchandising rules; it shares everything else with this one."""
        engine = copy.copy(self)
        engine._rules = rules
        engine._ranker = Ranker(self.bundle.catalog, self.bundle.items, rules)
        engine.__dict__.pop("_synonyms", None)  # of the rules before
        return engine

    def _set_bundle(self, bundle: Bundle) -> None:
        self.bundle = bundle
        popularity = bundle.histories.popularity
        self._popularity_shares = popularity / max(popularity.sum(), 1)
        self._popularity_scores = PrecomputedScores(self._popularity_shares)
        self._trending_cache: tuple[RecentPopularity, TrendingItems | None] | None = None
        self._plain_ranker = Ranker(bundle.catalog, bundle.items, MerchandisingRules())
        self._ranker = Ranker(bundle.catalog, bundle.items, self._rules) if self._rules else self._plain_ranker
        self._explainer = Explainer(bundle.catalog, bundle.items, bundle.neighbors.of_items, self._popularity_shares)

    def recommend(
        self,
        user_id: str | None,
        past: Sequence[Action],
        session: Sequence[Action],
        now: float,
        options: ListOptions,
        method: Method = MODEL,
        signals: LiveSignals = NO_SIGNALS,
    ) -> Answer:
        """Returns the best items for a user in a session.

        Args:
            user_id: key of the user's history in the bundle; None for an anonymous visitor.
            past: the user's actions since the bundle's cut-off, without the session.
            session: actions of the session, oldest first.
            now: start of the session, seconds since 1970.
            options: list constraints.
            method: source of the scores: the model, popularity, the user's number of actions on an item (popularity
                breaks ties and fills up), or similarity to the user's latest items. Without any items, the latter two
                fall back to popularity.
            signals: live signals; only the model's scores use them.
        """
        prediction = self._predict(user_id, past, session, now, method)
        if method == MODEL:
            prediction = self._apply_signals(signals, self._rescore(prediction, options), options)
        return self._recommend(self._ranker_for(options), prediction, options)

    def candidates(
        self, user_id: str | None, session: Sequence[Action], now: float, features: CandidateFeatures
    ) -> Candidates | None:
        """Returns the best items of the first stage with their features; None where the model does not score them.

        Args:
            user_id, session, now: as for `recommend`.
            features: of the same bundle.
        """
        prediction = self._predict(user_id, (), session, now)
        if prediction.situation is None or not prediction.situation.has_item:
            return None
        offset = self._plain_ranker.offset(ListOptions(NUM_CANDIDATES), prediction.latest_seconds)
        return features.select(prediction.scores.top_k(NUM_FETCHED, offset), prediction.situation)

    def _rescore(self, prediction: _Prediction, options: ListOptions) -> _Prediction:
        """Applies the second stage to the items that the list may have."""
        if self._second_stage is None or prediction.situation is None:
            return prediction
        offset = self._plain_ranker.offset(options, prediction.latest_seconds)
        rescored = self._second_stage.rescore(prediction.scores, prediction.situation, offset)
        return prediction._replace(scores=rescored)

    def _ranker_for(self, options: ListOptions) -> Ranker:
        return self._ranker if options.rules is None else self._ranker.with_rules(options.rules)

    @cached_property
    def _synonyms(self) -> Synonyms[Meaning]:
        return self._item_search.index.synonyms(self._rules or MerchandisingRules())

    def _synonyms_for(self, options: ListOptions) -> list[Synonyms[Meaning]]:
        further = [] if options.rules is None else [self._item_search.index.synonyms(options.rules)]
        return [self._synonyms, *further]

    def search(
        self,
        user_id: str | None,
        past: Sequence[Action],
        session: Sequence[Action],
        now: float,
        query: str,
        options: ListOptions,
        search: SearchOptions,
        signals: LiveSignals = NO_SIGNALS,
    ) -> SearchAnswer:
        """Returns the items that match a query, ranked by text, popularity and the model's scores; empty without any.

        `engine.item_search` defines the signals. The merchandising rules apply to the order by relevance only,
        except for synonyms.

        Args:
            user_id, past, session, now, options, signals: as for `recommend`; the session ends with the search.
            query: search text.
            search: order, facets and further contents of the answer.
        """
        latest = session[-1].seconds
        num_results = search.offset + options.k
        allowed = self._ranker.allowed(options, latest)
        found = self._item_search.find(query, allowed, search, self._synonyms_for(options))
        if options.exclude:
            excluded = self.bundle.vocabulary.numbers(sorted(options.exclude))
            if (is_excluded := np.isin(found.matches.numbers, excluded)).any():
                found = found.keep(~is_excluded)
        matches = found.matches
        if not len(matches.numbers):
            return NO_RESULTS._replace(relaxations=matches.relaxations)
        prediction = self._apply_signals(signals, self._predict(user_id, past, session, now), options)
        ranked = self._item_search.rank(found, prediction.scores)
        if search.sort == RELEVANCE:
            all_options = msgspec.structs.replace(options, k=num_results)
            scores = MatchScores(matches.numbers, ranked.scores)
            listed = self._ranker_for(options).rank(scores, all_options, latest)
        else:
            order = self._item_search.sort(ranked, search.sort)[:num_results]
            listed = RankedList(matches.numbers[order].tolist(), ranked.scores[order].tolist(), set())
        page = listed._replace(numbers=listed.numbers[search.offset :], scores=listed.scores[search.offset :])
        results = self._to_results(ranked, page, search)
        facets = {field: count_facet(self.bundle.catalog, matches.numbers, field) for field in search.facets}
        answer, reachable = Answer([*results], prediction.purchase_intent), len(matches.numbers)
        return SearchAnswer(answer, matches.total, reachable, facets, matches.relaxations)

    def suggest_items(self, prefix: str, k: int, now: float) -> list[SearchResult]:
        """Returns items that match a query whose last word may be unfinished, ranked by text and popularity."""
        options = ListOptions(k)
        found = self._item_search.find(
            prefix, self._ranker.allowed(options, now), COMPLETION, self._synonyms_for(options)
        )
        if not len(found.matches.numbers):
            return []
        ranked = self._item_search.rank(found, None)
        listed = self._ranker.rank(MatchScores(found.matches.numbers, ranked.scores), options, now)
        return self._to_results(ranked, listed, COMPLETION)

    def _to_results(self, ranked: RankedMatches, listed: RankedList, search: SearchOptions) -> list[SearchResult]:
        items = self._to_recommendations(listed, "search", [(MATCHES_QUERY, None)] * len(listed.numbers))
        return [*self._item_search.describe(ranked, listed.numbers, items, search)]

    def suggest_queries(self, prefix: str, k: int) -> list[str]:
        """Returns names of categories and brands that complete an unfinished query, those with most items first."""
        return self._item_search.completions.complete(prefix, k)

    def with_data(self, item: Recommendation, fields: Sequence[str]) -> Recommendation:
        """Returns an item of a list with fields of the catalog; see `Catalog.data_of`."""
        number = self.bundle.vocabulary.number_of[item.item_id]
        return msgspec.structs.replace(item, data=self.bundle.catalog.data_of(number, fields))

    def item(self, item_id: str) -> Item | None:
        """Returns an item of the catalog; None if there is no such item."""
        number = self.bundle.vocabulary.number_of.get(item_id)
        return None if number is None else self.bundle.catalog.item(number)

    def is_trained(self, item_id: str) -> bool:
        """Whether the item had enough training events for an embedding of its own."""
        number = int(self.bundle.vocabulary.numbers([item_id])[0])
        return FIRST_ITEM <= number < self._num_trained

    def find_similar(self, item_id: str, options: ListOptions, now: float) -> list[Recommendation]:
        """Returns the nearest items by cosine similarity of their vectors, which is the score.

        Raises:
            InputError: the model does not know the item.
        """
        number = self._known_number(item_id)
        similarity = self.bundle.items.dot(self.bundle.items[np.asarray([number])][0])
        similarity[number] = 0.0
        ranked = self._plain_ranker.rank(PrecomputedScores(similarity), options, now)
        explanation = f"like {self.bundle.vocabulary.title(number)}", item_id
        return self._to_recommendations(ranked, "model", [explanation] * len(ranked.numbers))

    def find_users(self, item_id: str, k: int) -> list[tuple[str, float]]:
        """Returns the users whose latest actions are nearest to an item that they have not bought, and their scores.

        The score is the sum of the positive cosines of the item and the user's items, each halved every 30 days before
        the model's cut-off.

        Raises:
            InputError: the model does not know the item.
        """
        number = self._known_number(item_id)
        histories = self.bundle.histories
        similarity = np.maximum(self.bundle.items.dot(self.bundle.items[np.asarray([number])][0]), 0.0)
        rows = np.repeat(np.arange(len(histories.row_of)), np.diff(histories.start))
        age = self.bundle.cutoff.timestamp() - histories.seconds
        scores = np.bincount(
            rows, similarity[histories.item] * 0.5 ** (age / _HALF_LIFE_SECONDS), len(histories.row_of)
        )
        has_bought = (histories.item == number) & (histories.kind == EVENT_TYPE_CODES[PURCHASE])
        scores[rows[has_bought]] = 0.0
        best = sorted(top_indices(np.where(scores > 0, scores, -np.inf), k).tolist(), key=lambda row: -scores[row])
        user_ids = list(histories.row_of)
        return [(user_ids[row], float(scores[row])) for row in best]

    def _known_number(self, item_id: str) -> int:
        number = int(self.bundle.vocabulary.numbers([item_id])[0])
        if number < FIRST_ITEM:
            raise InputError(f"the model does not know the item {item_id!r}")
        return number

    def _recommend(self, ranker: Ranker, prediction: _Prediction, options: ListOptions) -> Answer:
        if prediction.source == "popular" and options.interests:
            return self._recommend_by_interests(ranker, prediction, options)
        start = time.perf_counter()
        ranked = ranker.rank(prediction.scores, options, prediction.latest_seconds, prediction.discounts)
        explanations = self._explainer.explain(ranked.numbers, prediction.actions)
        if prediction.trending is not None:
            explanations = [
                (TRENDING, None) if prediction.trending.dominates(number, score) else explanation
                for number, score, explanation in zip(ranked.numbers, ranked.scores, explanations, strict=True)
            ]
        items = self._to_recommendations(ranked, prediction.source, explanations)
        timings = prediction.timings and prediction.timings._replace(ranking=time.perf_counter() - start)
        return Answer(items, prediction.purchase_intent, ranked.explored, timings)

    def _recommend_by_interests(self, ranker: Ranker, prediction: _Prediction, options: ListOptions) -> Answer:
        """Items that match the user's stated interests, by popularity; then the other popular items."""
        found = self._item_search.find(" ".join(options.interests), None, DEFAULT_SEARCH).matches
        numbers = found.numbers
        scores = self._popularity_shares.copy()
        if len(numbers):
            scores[numbers] += found.text * (1.0 + scores[numbers] / scores.max())
        without_exploration = msgspec.structs.replace(options, exploration=None)
        ranked = ranker.rank(PrecomputedScores(scores), without_exploration, prediction.latest_seconds)
        matches = set(numbers.tolist())
        explanations: list[Explanation] = [
            (MATCHES_INTERESTS if number in matches else POPULAR, None) for number in ranked.numbers
        ]
        return Answer(self._to_recommendations(ranked, "interests", explanations), None)

    def _predict(
        self,
        user_id: str | None,
        past: Sequence[Action],
        session: Sequence[Action],
        now: float,
        method: Method = MODEL,
    ) -> _Prediction:
        start = time.perf_counter()
        history, cached = self._session_decoder.encode_history(user_id, past, now)
        encoded_at = time.perf_counter()
        decoded = self._session_decoder.resume_session(user_id, history, session, now)
        actions = history.actions.append(decoded.tokens.columns)
        is_trained = self.bundle.is_trained
        if actions.latest and (method == NEIGHBORS or (method == MODEL and not is_trained)):
            return _Prediction(NEIGHBORS, self._neighbor_scores(actions), None, actions, decoded.latest_seconds)
        if method == PERSONAL_FREQUENCY and actions.latest:
            past_items = history.full_history.item[: history.end]
            frequency = self._personal_frequency(np.concatenate([past_items, decoded.tokens.columns[0]]))
            return _Prediction(PERSONAL_FREQUENCY, frequency, None, actions, decoded.latest_seconds)
        if method != MODEL or not is_trained or not self._session_decoder.has_signal(history, decoded):
            return _Prediction("popular", self._popularity_scores, None, actions, decoded.latest_seconds)
        reading = self._session_decoder.decode(user_id, history, decoded)
        tokens = decoded.tokens.columns[0]
        scores = NextItemScores(self.bundle.items, self._scan, reading, history.copies, tokens, self.bundle.neighbors)
        timings = Timings(cached, encoded_at - start, time.perf_counter() - encoded_at)
        intent = predict_session_intent(self.bundle.intent, reading["direction"], history, decoded)
        situation = Situation(events_before(history.full_history, history.end), tokens, decoded.latest_seconds)
        return _Prediction("model", scores, intent, actions, decoded.latest_seconds, timings, situation)

    def _apply_signals(self, signals: LiveSignals, prediction: _Prediction, options: ListOptions) -> _Prediction:
        """Blends trending items into the scores, or lifts a few of them in those of a known user, and adds the
        impression discounts."""
        trending = None if signals.recent_popularity is None else self._find_trending(signals.recent_popularity)
        if trending is not None and prediction.source == "popular":
            prediction = prediction._replace(scores=BlendedScores(prediction.scores, trending), trending=trending)
        elif trending is not None:
            hidden = self.bundle.vocabulary.numbers(sorted(options.exclude))
            lifted = LiftedScores(prediction.scores, trending, options.k, hidden)
            prediction = prediction._replace(scores=lifted, trending=lifted)
        return prediction._replace(discounts=self._find_discounts(signals.unclicked_impressions))

    def _find_discounts(self, unclicked_impressions: Mapping[str, float]) -> DiscountedItems | None:
        factors = self.bundle.impression_discounts
        if not len(factors) or not unclicked_impressions:
            return None
        numbers = self.bundle.vocabulary.numbers(list(unclicked_impressions))
        counts = np.fromiter(unclicked_impressions.values(), float, len(unclicked_impressions))
        known = numbers >= FIRST_ITEM
        if not known.any():
            return None
        return DiscountedItems(numbers[known], np.interp(counts[known], np.arange(len(factors)), factors))

    def _find_trending(self, recent: RecentPopularity) -> TrendingItems | None:
        if self._trending_cache is None or self._trending_cache[0] is not recent:
            self._trending_cache = recent, recent.find_trending(self._popularity_shares, self.bundle.vocabulary)
        return self._trending_cache[1]

    def _neighbor_scores(self, actions: ActionHistory) -> PrecomputedScores:
        """Similarity [V] to the items of the latest actions, weighted by recency; those items score 0."""
        numbers = np.asarray([number for number, _ in actions.latest[-_NEIGHBOR_ACTIONS:]])
        weights = _NEIGHBOR_DECAY ** np.arange(len(numbers))[::-1]
        similarity = self.bundle.items.dot((weights @ self.bundle.items[numbers]).astype(np.float32))
        similarity[numbers] = 0.0
        return PrecomputedScores(similarity)

    def _personal_frequency(self, numbers: np.ndarray) -> PrecomputedScores:
        """Number of the user's actions on each item [V], from their item numbers [N], plus its popularity share."""
        return PrecomputedScores(self._popularity_shares + np.bincount(numbers, minlength=len(self._popularity_shares)))

    def _to_recommendations(
        self, ranked: RankedList, source: str, explanations: Sequence[Explanation]
    ) -> list[Recommendation]:
        vocabulary = self.bundle.vocabulary
        return [
            Recommendation(
                vocabulary.item_id(number),
                vocabulary.title(number),
                score,
                "pinned" if number in ranked.pinned else source,
                *((PINNED, None) if number in ranked.pinned else explanation),
            )
            for number, score, explanation in zip(ranked.numbers, ranked.scores, explanations, strict=True)
        ]

    def forget(self, user_id: str | None) -> None:
        """Drops a user's cache entries; the bundle keeps the history."""
        self._session_decoder.forget(user_id)

    def warm_cache(self, serving: Engine, seconds: float = _WARM_UP_SECONDS) -> None:
        """Encodes the histories of another engine's most recent users, so that a swap adds no latency.

        The other engine may answer and forget users meanwhile; a user it forgets is dropped here too.

        Args:
            serving: the engine to take over from.
            seconds: time limit.
        """
        self._session_decoder.warm_cache(serving._session_decoder, seconds)

    def shrink_cache(self) -> None:
        """Shrinks the caches of an engine that no longer serves."""
        self._session_decoder.shrink_cache()

    def seen_item_ids(self, user_id: str | None, event_type: str | None = None) -> set[str]:
        """Ids of the items in a user's history up to the bundle's cut-off; only those of one event type if given."""
        item, kind, _, _ = self.bundle.histories.of(user_id)
        if event_type is not None:
            item = item[kind == EVENT_TYPE_CODES[event_type]]
        return {self.bundle.vocabulary.item_id(number) for number in set(item.tolist()) if number >= FIRST_ITEM}

    def answer_golden(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the answer to one golden request, from the bundle alone: no live actions, no rules."""
        session = [Action(item, kind, seconds, query=query) for item, kind, seconds, query in request["session"]]
        prediction = self._predict(request["user_id"], (), session, request["now"])
        options = ListOptions(request["k"])
        answer = self._recommend(self._plain_ranker, self._rescore(prediction, options), options)
        return [{"item_id": item.item_id, "score": item.score} for item in answer.items]

    def warm_up(self, pause: Pause = no_pause) -> None:
        """Builds the text index and answers one golden request, so that the first user does not wait for either."""
        if "_item_search" not in self.__dict__:
            self._item_search = _build_search(self.bundle, self._search_setup, pause)
        self.bundle.vocabulary.prepare_content_tokens(pause)
        self._explainer.prepare()
        pause()
        for case in self.bundle.golden[-1:]:
            self.answer_golden(case["request"])

    def check_golden(self) -> int:
        """Compares the answers to the golden requests with those of the exported model; returns their number.

        Raises:
            GoldenMismatch: an answer differs; names the first.
        """
        for number, case in enumerate(self.bundle.golden):
            try:
                answer = self.answer_golden(case["request"])
            except Exception as error:
                raise GoldenMismatch(f"Golden request {number} failed: {error}") from error
            expected = case["answer"]
            scores = [entry["score"] for entry in answer]
            scores_agree = len(scores) == len(expected) and np.allclose(
                scores, [entry["score"] for entry in expected], atol=_TOLERANCE
            )
            if not scores_agree:
                raise GoldenMismatch(f"Golden request {number}: scores {scores[:3]}… differ from {expected[:3]}…")
            score_by_id = {entry["item_id"]: entry["score"] for entry in answer}
            for entry in expected:
                # Near ties may swap positions; a missing item or a different score is a mismatch.
                last = scores[-1] if scores else 0.0
                if abs(score_by_id.get(entry["item_id"], last) - entry["score"]) > _TOLERANCE:
                    raise GoldenMismatch(f"Golden request {number}: {entry} is not in the answer with that score")
        return len(self.bundle.golden)

    @cached_property
    def _item_search(self) -> ItemSearch:
        return _build_search(self.bundle, self._search_setup, no_pause)


def _build_search(bundle: Bundle, setup: SearchSetup | None, pause: Pause) -> ItemSearch:
    from recsys_tasks.engine.item_search import ItemSearch  # optional dependencies: only endpoints need them

    return ItemSearch.build(bundle, setup or SearchSetup(read_search_settings(None)), pause)


def unix_now() -> float:
    """The current time in seconds since 1970."""
    return time.time()
