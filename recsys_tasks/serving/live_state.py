"""In-memory state of users and sessions since the bundle's cutoff; rebuilt from the event log at each start."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Set
from datetime import datetime

import msgspec

from recsys_tasks.engine.impression_discounting import UnclickedImpressions
from recsys_tasks.engine.session_decoder import MAX_STORED_EVENTS, Action
from recsys_tasks.engine.trending import PopularityTracker, RecentPopularity
from recsys_tasks.names import IMPRESSION, SEARCH, SHOPPER
from recsys_tasks.serving.access import is_key
from recsys_tasks.serving.messages import LoggedEvent
from recsys_tasks.wire.messages import Event

log = logging.getLogger(__name__)

_MAX_KEYS = 200_000  # of users, and of sessions
_SESSION_SECONDS = 30 * 60
_IMPRESSION_PREFIX = b'{"event_type":"' + IMPRESSION.encode() + b'"'


class LiveState:
    """Latest actions of users and of sessions (least recently active evicted first), unclicked impressions, trends.

    Args:
        trending_half_life_hours: half-life of an action's weight in the trending counts; 0 disables trending.
        is_known: whether a user has a history in the model. A made-up visitor costs nothing, so that of actions that
            callers without a key send, only those of known users count there, and of those of one sender only a few.
    """

    def __init__(
        self, trending_half_life_hours: float = 0.0, is_known: Callable[[str | None], bool] = lambda _: True
    ) -> None:
        self._is_known = is_known
        self._users: OrderedDict[str, list[Action]] = OrderedDict()
        self._sessions: OrderedDict[str, list[Action]] = OrderedDict()
        self._trending = PopularityTracker(trending_half_life_hours) if trending_half_life_hours else None
        self.unclicked_impressions = UnclickedImpressions()

    def replay(self, lines: Iterable[bytes], since: datetime | None = None) -> int:
        """Adds the user actions in lines of an event log, from a time on; returns their number."""
        decode = msgspec.json.Decoder(LoggedEvent).decode
        count = 0
        for line in lines:
            if line.startswith(_IMPRESSION_PREFIX):
                continue
            try:
                event = decode(line)
            except msgspec.MsgspecError as error:
                log.error("Skipped a line of the event log that cannot be decoded: %s", error)
                continue
            if since is None or event.event_time is None or event.event_time >= since:
                self.add(event, event.sender)
                count += 1
        return count

    def add(self, event: Event, sender: str | None = "") -> None:
        """Adds one event; impressions and events with a known id change nothing.

        A caller's clock may be ahead: an event of the future happened now. The anonymous actions of a session are those
        of the first user who acts in it.

        Args:
            event: the event.
            sender: name of who sent it, see `Caller`; None for an event that does not count in the trends.
        """
        lacks_item = event.item_id is None and event.event_type != SEARCH
        if lacks_item or event.event_type == IMPRESSION or event.event_time is None:
            return
        action = Action(
            event.item_id or "",
            event.event_type,
            min(event.event_time.timestamp(), time.time()),
            event.session_id,
            event.event_id,
            (event.query or "") if event.event_type == SEARCH else "",
            event.user_id,
        )
        owner = self._session_owner(event.session_id)
        if owner is None and event.user_id is not None:
            for earlier in self._sessions.get(event.session_id or "", ()):
                _add_action(self._users, event.user_id, earlier)
        for key, table in ((event.user_id or owner, self._users), (event.session_id, self._sessions)):
            if key is not None:
                _add_action(table, key, action)
        visitor = event.user_id or event.session_id
        if visitor is not None and action.item_id:
            self.unclicked_impressions.remove(visitor, action.item_id)
            if self._trending is not None and sender is not None and _is_organic(event):
                self._add_to_trends(self._trending, action, visitor, sender)

    def _add_to_trends(self, trending: PopularityTracker, action: Action, visitor: str, sender: str) -> None:
        if is_key(sender):
            trending.add(action.item_id, visitor, action.seconds)
        elif self._is_known(action.user_id):
            trending.add(action.item_id, visitor, action.seconds, sender)

    def _session_owner(self, session_id: str | None) -> str | None:
        """Returns the first user who acted in a session."""
        actions = self._sessions.get(session_id or "", ())
        return next((action.user_id for action in actions if action.user_id is not None), None)

    def erase_user(self, user_id: str) -> None:
        """Removes a user's actions, also from sessions as far as memory holds them; see `remove_session_events`."""
        if self._trending is not None:
            self._trending.forget(user_id)
        self.unclicked_impressions.forget(user_id)
        actions = self._users.pop(user_id, [])
        sessions = {action.session_id for action in actions if action.session_id is not None}
        self.remove_session_events(sessions, {action.event_id for action in actions if action.event_id is not None})

    def remove_session_events(self, session_ids: Set[str], event_ids: Set[str]) -> None:
        """Removes events from sessions."""
        for session_id in session_ids & self._sessions.keys():
            actions = self._sessions[session_id]
            actions[:] = [action for action in actions if action.event_id not in event_ids]

    def get_user_actions(self, user_id: str | None) -> list[Action]:
        """Returns a user's actions, oldest first."""
        return self._users.get(user_id or "", [])

    def get_session_actions(self, session_id: str | None, user_id: str | None) -> list[Action]:
        """Returns the actions of a user in a session, oldest first.

        A session belongs to the first user in it, with its anonymous actions. Another user with the same session id
        has a session of their own.
        """
        actions = self._sessions.get(session_id or "", [])
        owner = self._session_owner(session_id) or user_id
        visible = {None, owner} if user_id in (None, owner) else {user_id}
        return [action for action in actions if action.user_id in visible]

    def recent_popularity(self, now: float) -> RecentPopularity | None:
        """Returns the recent popularity from organic events; None where trending is disabled."""
        return None if self._trending is None else self._trending.recent_popularity(now)

    def find_running_session(self, user_id: str | None, now: float) -> str | None:
        """Returns the session of a user's latest action, if that is at most 30 minutes old."""
        actions = self.get_user_actions(user_id)
        is_recent = bool(actions) and 0 <= now - actions[-1].seconds <= _SESSION_SECONDS
        return actions[-1].session_id if is_recent else None


def _is_organic(event: Event) -> bool:
    """Whether a shopper acted on an item without a list of this endpoint."""
    return event.request_id is None and (event.properties or {}).get("traffic", SHOPPER) == SHOPPER


def _add_action(table: OrderedDict[str, list[Action]], key: str, action: Action) -> None:
    actions = table.setdefault(key, [])
    table.move_to_end(key)
    if any(earlier.event_id == action.event_id for earlier in actions):
        return
    actions.append(action)
    if len(actions) > 1 and actions[-2].seconds > action.seconds:
        actions.sort(key=lambda other: other.seconds)
    del actions[:-MAX_STORED_EVENTS]
    if len(table) > _MAX_KEYS:
        table.popitem(last=False)
