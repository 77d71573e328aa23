"""Routes of items: read, create, replace, change and remove, one or many; and the item updates of other workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from recsys_tasks.engine.item_updates import ItemUpdate, ItemUpdates
from recsys_tasks.serving.event_log import EventLog
from recsys_tasks.serving.follower import EventLogFollower
from recsys_tasks.serving.http import json_response, read_body
from recsys_tasks.serving.messages import RequestError, decode_item, decode_item_changes, decode_items, parse_id
from recsys_tasks.serving.model_store import ModelStore
from recsys_tasks.wire.items import Item
from recsys_tasks.wire.messages import ItemResponse, ItemsResponse, StoredItemResponse

_MAX_BULK_ITEMS, _MAX_BULK_BYTES, _MAX_BULK_SECONDS = 10_000, 64 << 20, 120.0
_FOLLOW_INTERVAL_SECONDS = 0.5


class ItemRoutes:
    """Handlers of `/v1/items/{item_id}`.

    Args:
        models: the models that get the updates.
        item_log: of this worker.
        other_item_logs: of the other workers on this machine.
        item_updates: all updates so far.
        model_lock: a model reads all updates while it loads; updates wait until the load has ended.
    """

    def __init__(
        self,
        models: ModelStore,
        item_log: EventLog,
        other_item_logs: EventLogFollower,
        item_updates: ItemUpdates,
        model_lock: asyncio.Lock,
    ) -> None:
        self._models, self._log, self._other_logs = models, item_log, other_item_logs
        self._updates, self._model_lock = item_updates, model_lock

    async def get_item(self, request: Request) -> Response:
        """`GET /v1/items/{item_id}`"""
        item_id = _item_id(request)
        return json_response(StoredItemResponse(item_id, self._is_trained(item_id), self._stored(item_id)))

    async def put_item(self, request: Request) -> Response:
        """`PUT /v1/items/{item_id}`: creates an item or replaces all of its fields."""
        return await self._store(_item_id(request), decode_item(await read_body(request)))

    async def patch_item(self, request: Request) -> Response:
        """`PATCH /v1/items/{item_id}`: changes the fields of the body, and keeps the others."""
        item_id, changes = _item_id(request), decode_item_changes(await read_body(request))
        changed = msgspec.structs.replace(self._stored(item_id), **changes)
        return await self._store(item_id, decode_item(msgspec.json.encode(changed)))

    async def delete_item(self, request: Request) -> Response:
        """`DELETE /v1/items/{item_id}`: no list has the item from now on; actions on it are still read."""
        item_id = _item_id(request)
        item = self._stored(item_id)
        removed = msgspec.structs.replace(item, title=item.title or item_id, available_until=datetime.now(UTC))
        return await self._store(item_id, removed)

    async def post_items(self, request: Request) -> Response:
        """`POST /v1/items`: creates or replaces many items, one JSON object per line; valid lines are stored."""
        body = await read_body(request, _MAX_BULK_BYTES, _MAX_BULK_SECONDS)
        items, rejected = await run_in_threadpool(decode_items, body, _MAX_BULK_ITEMS)
        request.state.charge(len(items) + len(rejected))
        if items:
            await self._store_all(items)
        return json_response(ItemsResponse(len(items), rejected))

    async def follow_other_workers(self) -> None:
        """Applies the item updates of other workers, until cancelled."""
        while True:
            await asyncio.sleep(_FOLLOW_INTERVAL_SECONDS)
            await self._apply(list(self._other_logs.read_lines()))

    async def _store(self, item_id: str, item: Item) -> Response:
        await self._store_all({item_id: item})
        return json_response(ItemResponse(item_id, self._is_trained(item_id)))

    async def _store_all(self, items: Mapping[str, Item]) -> None:
        now = datetime.now(UTC)
        lines = [msgspec.json.encode(ItemUpdate(item_id, now, item)) + b"\n" for item_id, item in items.items()]
        await self._log.append(b"".join(lines))
        await self._apply(lines)

    async def _apply(self, lines: list[bytes]) -> None:
        if lines:
            async with self._model_lock:
                updates = self._updates.replay(lines)
                if updates:
                    await run_in_threadpool(self._models.apply_item_updates, updates)

    def _stored(self, item_id: str) -> Item:
        """Returns an item as the active model or the updates have it.

        Raises:
            RequestError: neither has the item (404).
        """
        item = self._updates.latest(item_id) if self._models.engine is None else self._models.engine.item(item_id)
        if item is None:
            raise RequestError(404, "No such item", f"there is no item {item_id!r}")
        return item

    def _is_trained(self, item_id: str) -> bool:
        return self._models.engine is not None and self._models.engine.is_trained(item_id)


def _item_id(request: Request) -> str:
    return parse_id(request.path_params["item_id"], "item")
