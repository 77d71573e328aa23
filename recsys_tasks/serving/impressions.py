"""What was shown, noted in the journal: one event for each item of a list, and one for each search."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

from recsys_tasks.engine.engine import Answer
from recsys_tasks.names import IMPRESSION, SEARCH, SHOPPER
from recsys_tasks.serving.event_log import Journal
from recsys_tasks.serving.messages import Event, RecommendationRequest, SearchRequest, as_lines

log = logging.getLogger(__name__)


class Shown(NamedTuple):
    """A list that was shown.

    Attributes:
        answer: the list; request_id: of the request; model_version: which answered.
        teams: whose each item is, where two lists became one.
        about: what else is to be noted with it, the same for all items: list, experiment and arm, segment.
        milliseconds: how long the answer took.
    """

    answer: Answer
    request_id: str
    model_version: str
    teams: Sequence[str] | None
    about: Mapping[str, str]
    milliseconds: float


class Impressions:
    """Notes in a journal what was shown, for a share of the requests, drawn by their ids.

    Lines survive the process, not a loss of power: nobody waits for them, and nobody was promised anything.
    """

    def __init__(self, journal: Journal, share: float = 1.0) -> None:
        self._journal, self._share = journal, share

    def note(self, asked: RecommendationRequest, shown: Shown) -> None:
        """One impression for each item; what holds for the whole list is said with its first one."""
        if self._share < 1 and Random(shown.request_id).random() >= self._share:  # noqa: S311
            return
        shared, answer = _who_and_when(asked, shown.request_id), shown.answer
        first: dict[str, Any] = {**shown.about, **_traffic(asked), "milliseconds": round(shown.milliseconds, 2)}
        if self._share < 1:
            first["sampled"] = self._share
        events = []
        for place, item in enumerate(answer.items):
            properties = {"model_version": shown.model_version, "score": item.score, "source": item.source}
            if answer.propensities is not None:
                properties["propensity"] = answer.propensities[place]
            if shown.teams is not None:
                properties["team"] = shown.teams[place]
            event = Event(
                event_type=IMPRESSION,
                event_id=f"{shown.request_id}-{place + 1}",
                item_id=item.item_id,
                position=place + 1,
                properties=properties if place else {**properties, **first},
                **shared,
            )
            events.append(event)
        self._write(events, f"Impressions of request {shown.request_id}")

    def note_search(self, asked: SearchRequest, request_id: str) -> Event:
        """A search as something that the user did."""
        event = Event(
            event_type=SEARCH,
            event_id=request_id,
            query=asked.query,
            properties=_traffic(asked) or None,
            **_who_and_when(asked, request_id),
        )
        self._write([event], f"The words of search {request_id}")
        return event

    def _write(self, events: list[Event], what: str) -> None:
        try:
            self._journal.note(as_lines(events))
        except OSError as error:
            log.error("%s were lost: %s", what, error)


def _traffic(asked: RecommendationRequest) -> dict[str, str]:
    return {} if asked.traffic == SHOPPER else {"traffic": asked.traffic}


def _who_and_when(asked: RecommendationRequest, request_id: str) -> dict[str, Any]:
    """What every event of a request has: one of nobody is in a session of its own."""
    return {
        "user_id": asked.user_id,
        "session_id": asked.session_id or (None if asked.user_id else f"anonymous-{request_id}"),
        "event_time": (asked.time or datetime.now(UTC)).astimezone(UTC),
        "request_id": request_id,
    }
