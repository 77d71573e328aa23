"""The storefront: pages of a small shop, which use the public API from the browser. Enabled by `RECSYS_SHOP`."""

from __future__ import annotations

from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys_tasks.serving.http import json_response
from recsys_tasks.serving.recommendations import RecommendationService
from recsys_tasks.settings import Settings

_PACKAGE = Path(__file__).parent.parent
_PAGES = next(folder for folder in (_PACKAGE.parent / "web", _PACKAGE / "web") if folder.is_dir()) / "shop"
_CLIENT = _PACKAGE / "client" / "recommender.js"
_PATH = "/shop"
_NUM_SHOPPERS = 8
# Scripts and styles are files of this origin only: neither a title nor a query can run or load anything.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the browser revalidates at each load
}


def shop_routes(settings: Settings, recommender: RecommendationService) -> list[BaseRoute]:
    """Returns the routes of the storefront.

    Args:
        settings: `shop_key` is sent to the visitors' browsers.
        recommender: source of user ids with long histories, for the menu of shoppers.
    """
    key = None if settings.shop_key is None else settings.shop_key.get_secret_value()

    def get_config(request: Request) -> Response:
        return json_response({"key": key, "users": recommender.most_active_users(_NUM_SHOPPERS)})

    def get_index(request: Request) -> Response:
        return FileResponse(_PAGES / "index.html")

    def get_client(request: Request) -> Response:
        return FileResponse(_CLIENT, media_type="text/javascript")

    def redirect(request: Request) -> Response:
        return RedirectResponse("shop/")  # relative: an absolute URL would reflect the `Host` header

    pages = [Route("/", get_index), Route("/config.json", get_config), Route("/recommender.js", get_client)]
    mount = Mount(_PATH, routes=[*pages, Mount("/", StaticFiles(directory=_PAGES))])
    mount.app = _PageHeaders(mount.app)
    return [Route(_PATH, redirect), mount]


class _PageHeaders:
    """Adds the headers of pages to each response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(Headers(_HEADERS))
            await send(message)

        await self._app(scope, receive, send_with_headers)
