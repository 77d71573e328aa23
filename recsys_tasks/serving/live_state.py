"""What users and sessions did since the bundle was made, in memory; rebuilt from the journal at a start."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Set

import msgspec

from recsys_tasks.engine.impression_discounting import Looks
from recsys_tasks.engine.session_decoder import HISTORY, Action
from recsys_tasks.engine.trending import Lately, Trending
from recsys_tasks.names import IMPRESSION, SEARCH, SHOPPER
from recsys_tasks.serving.messages import Event

log = logging.getLogger(__name__)

_REMEMBERED = 200_000  # users, and sessions
_SESSION_SECONDS = 30 * 60
_SHOWN = b'{"event_type":"' + IMPRESSION.encode() + b'"'


class LiveState:
    """The latest actions of users and of sessions, the longest silent forgotten first, and what all of them take.

    Args:
        trend_hours: after which time half as much is made of what was taken; 0: nothing is made of it.
    """

    def __init__(self, trend_hours: float = 0.0) -> None:
        self._users: OrderedDict[str, list[Action]] = OrderedDict()
        self._sessions: OrderedDict[str, list[Action]] = OrderedDict()
        self._trending = Trending(trend_hours) if trend_hours else None
        self.looks = Looks()

    def replay(self, lines: Iterable[bytes]) -> int:
        """Takes in what users did, from a journal's lines; returns how many things."""
        decode = msgspec.json.Decoder(Event).decode
        count = 0
        for line in lines:
            if line.startswith(_SHOWN):
                continue
            try:
                self.add(decode(line))
            except msgspec.MsgspecError as error:
                log.error("A line of the journal cannot be read and counts for nothing here: %s", error)
                continue
            count += 1
        return count

    def add(self, event: Event) -> None:
        """Takes in one event; impressions, and an id that is known already, change nothing."""
        nameless = event.item_id is None and event.event_type != SEARCH
        if nameless or event.event_type == IMPRESSION or event.event_time is None:
            return
        action = Action(
            event.item_id or "",
            event.event_type,
            event.event_time.timestamp(),
            event.session_id,
            event.event_id,
            (event.query or "") if event.event_type == SEARCH else "",
        )
        for key, table in ((event.user_id, self._users), (event.session_id, self._sessions)):
            if key is not None:
                _remember(table, key, action)
        visitor = event.user_id or event.session_id
        if visitor is not None and action.item_id:
            self.looks.acted(visitor, action.item_id)
            if self._trending is not None and _of_own_accord(event):
                self._trending.add(action.item_id, visitor, min(action.seconds, time.time()))  # clocks may be ahead

    def forget_user(self, user_id: str) -> None:
        """Drops a user's actions, and from sessions those of them that are remembered; see `withdraw` for others."""
        if self._trending is not None:
            self._trending.forget(user_id)
        self.looks.forget(user_id)
        actions = self._users.pop(user_id, [])
        sessions = {action.session_id for action in actions if action.session_id is not None}
        self.withdraw(sessions, {action.event_id for action in actions if action.event_id is not None})

    def withdraw(self, session_ids: Set[str], event_ids: Set[str]) -> None:
        """Drops events from sessions."""
        for session_id in session_ids & self._sessions.keys():
            actions = self._sessions[session_id]
            actions[:] = [action for action in actions if action.event_id not in event_ids]

    def of_user(self, user_id: str | None) -> list[Action]:
        """A user's actions, oldest first."""
        return self._users.get(user_id or "", [])

    def of_session(self, session_id: str | None) -> list[Action]:
        """A session's actions, oldest first."""
        return self._sessions.get(session_id or "", [])

    def lately(self, now: float) -> Lately | None:
        """What all of them took lately of their own accord; None where nothing is made of that."""
        return None if self._trending is None else self._trending.lately(now)

    def running_session(self, user_id: str | None, now: float) -> str | None:
        """The session of a user's latest action, if that was within the last half hour."""
        actions = self.of_user(user_id)
        recent = bool(actions) and 0 <= now - actions[-1].seconds <= _SESSION_SECONDS
        return actions[-1].session_id if recent else None


def _of_own_accord(event: Event) -> bool:
    """Whether a shopper acted on what no list of ours had shown."""
    return event.request_id is None and (event.properties or {}).get("traffic", SHOPPER) == SHOPPER


def _remember(table: OrderedDict[str, list[Action]], key: str, action: Action) -> None:
    actions = table.setdefault(key, [])
    table.move_to_end(key)
    if any(known.event_id == action.event_id for known in actions):
        return
    actions.append(action)
    if len(actions) > 1 and actions[-2].seconds > action.seconds:
        actions.sort(key=lambda known: known.seconds)
    del actions[:-HISTORY]
    if len(table) > _REMEMBERED:
        table.popitem(last=False)
