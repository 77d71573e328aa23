"""Impression log: writes one event for each served item, and one for each search, to the event log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

from recsys_tasks.engine.engine import Answer, SearchAnswer
from recsys_tasks.names import IMPRESSION, SEARCH, SHOPPER
from recsys_tasks.serving.event_log import EventLog
from recsys_tasks.serving.messages import serialize_events
from recsys_tasks.wire.messages import Event, RecommendationRequest, SearchRequest

log = logging.getLogger(__name__)


class ServedList(NamedTuple):
    """A list that was returned to a caller.

    Attributes:
        answer: the items.
        request_id: id of the request.
        model_version: version that made the list.
        teams: the team of each item in an interleaved list, else None.
        labels: properties of the whole list: kind of list, segment, experiment and arm.
        latency_ms: time from request to list.
    """

    answer: Answer
    request_id: str
    model_version: str
    teams: Sequence[str] | None
    labels: Mapping[str, str]
    latency_ms: float


class ImpressionLog:
    """Writes the impressions of a sample of the requests, drawn by request id.

    Impressions are written without fsync, so that requests do not wait for the disk. They survive the process, but not
    a power loss.
    """

    def __init__(self, event_log: EventLog, sample_share: float = 1.0) -> None:
        self._event_log, self._sample_share = event_log, sample_share

    def record_list(self, request: RecommendationRequest, served: ServedList) -> None:
        """Writes one impression for each item. The first one carries the properties of the whole list."""
        if self._sample_share < 1 and Random(served.request_id).random() >= self._sample_share:  # noqa: S311
            return
        context, answer = _event_context(request, served.request_id), served.answer
        list_properties: dict[str, Any] = {
            **served.labels,
            **_traffic_property(request),
            **({"constrained": True} if _is_constrained(request) else {}),
            "milliseconds": round(served.latency_ms, 2),
        }
        if self._sample_share < 1:
            list_properties["sampled"] = self._sample_share
        explored = answer.explored
        if explored is not None:
            list_properties |= {"explored_share": explored.share, "candidates": explored.num_candidates}
        events = []
        for index, item in enumerate(answer.items):
            properties = {"model_version": served.model_version, "score": item.score, "source": item.source}
            if explored is not None:
                properties |= {"propensity": explored.propensities[index], "rank": explored.ranks[index]}
            if served.teams is not None:
                properties["team"] = served.teams[index]
            event = Event(
                event_type=IMPRESSION,
                event_id=f"{served.request_id}-{index + 1}",
                item_id=item.item_id,
                position=index + 1,
                properties=properties if index else {**properties, **list_properties},
                **context,
            )
            events.append(event)
        self._write(events, f"Impressions of request {served.request_id}")

    def record_search(self, request: SearchRequest, request_id: str, found: SearchAnswer) -> Event:
        """Writes a search as a user action, with the number of its results; returns its event."""
        properties: dict[str, Any] = {**_traffic_property(request), "results": found.total}
        if any(relaxation.kind == "spelling" for relaxation in found.relaxations):
            properties["corrected"] = True
        event = Event(
            event_type=SEARCH,
            event_id=request_id,
            query=request.query,
            properties=properties,
            **_event_context(request, request_id),
        )
        self._write([event], f"Search event {request_id}")
        return event

    def _write(self, events: list[Event], subject: str) -> None:
        try:
            self._event_log.append_unsynced(serialize_events(events))
        except OSError as error:
            log.error("%s not written to the event log, lost: %s", subject, error)


def _traffic_property(request: RecommendationRequest) -> dict[str, str]:
    return {} if request.traffic == SHOPPER else {"traffic": request.traffic}


def _is_constrained(request: RecommendationRequest) -> bool:
    """Whether the list depends on more than the visitor's recorded actions: on options, or on actions sent with it."""
    return bool(
        request.session
        or request.query
        or request.filter
        or request.exclude
        or request.exclude_seen
        or request.exclude_bought
        or request.context_items
        or request.interests
        or request.diversity
        or request.at_most_per_category
        or request.rules
    )


def _event_context(request: RecommendationRequest, request_id: str) -> dict[str, Any]:
    """Fields that all events of a request share. A request without user and session gets an anonymous session."""
    return {
        "user_id": request.user_id,
        "session_id": request.session_id or (None if request.user_id else f"anonymous-{request_id}"),
        "event_time": (request.time or datetime.now(UTC)).astimezone(UTC),
        "request_id": request_id,
    }
