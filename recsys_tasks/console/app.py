"""ASGI application of the operations console. Pages read the current state at each request, except for the results of
experiments, which each attribution stores."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jinja2
import msgspec
import uvicorn
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from recsys_tasks.client import EndpointError
from recsys_tasks.console import actions, reads, rule_form
from recsys_tasks.console.access import ForbiddenRequest, check_form, get_csrf_token, get_operator, sign_in, sign_out
from recsys_tasks.errors import InputError, RecsysError
from recsys_tasks.monitoring import report
from recsys_tasks.names import REGISTERED_MODEL
from recsys_tasks.promotion.rollout import RolloutFailed
from recsys_tasks.settings import Settings, settings
from recsys_tasks.steps.promotion import PromotionRefused
from recsys_tasks.wire.rules import Synonym

log = logging.getLogger(__name__)
PATH = "/console"
_STYLE = Path(report.__file__).with_name(report.STYLE)
_SESSION_HOURS, _SHUTDOWN_SECONDS = 8, 10
_OUTCOME = "outcome"
_FAILURE_SECONDS = 1.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_DATA_DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
Handler = Callable[[Request], Awaitable[Response]]
Action = Callable[[str, FormData], str]


class Console:
    """Handlers of the console's routes.

    Args:
        chosen: settings with the admin token, the endpoints, and the addresses of Airflow, MLflow and the data docs.
    """

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        loader = jinja2.FunctionLoader(_read_template)
        self._templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
        self._templates.filters |= {
            "time": lambda at: "never" if at is None else f"{at:%Y-%m-%d %H:%M}",
            "figure": lambda value: "–" if value is None else f"{value:.4f}",
            "path": lambda text: quote(str(text), safe=""),
            "condition": rule_form.describe_filter,
            "json": lambda value: msgspec.json.format(msgspec.json.encode(value)).decode(),
        }

    async def get_sign_in(self, request: Request) -> Response:
        """`GET /console/sign-in`"""
        return self._page(request, "sign_in.html", problem=None)

    async def post_sign_in(self, request: Request) -> Response:
        """`POST /console/sign-in`: the form has no CSRF token, since there is no session that it could abuse."""
        async with request.form() as form:
            name, token = str(form.get("name", "")), str(form.get("token", ""))
        if sign_in(request, name, token, self._settings.require_admin_token()):
            return RedirectResponse(f"{PATH}/", 303)
        log.warning("A sign-in failed")
        await asyncio.sleep(_FAILURE_SECONDS)  # slows guessing down
        return self._page(request, "sign_in.html", 401, problem="Sign-in failed. Enter a name and the admin token.")

    async def post_sign_out(self, request: Request) -> Response:
        """`POST /console/sign-out`"""
        async with request.form() as form:
            check_form(request, form)
        sign_out(request)
        return RedirectResponse(f"{PATH}/sign-in", 303)

    async def get_data_docs(self, request: Request) -> Response:
        """`GET /console/data-docs/{name}`: a page of the data docs, which may be in a remote store."""
        name = request.path_params["name"]
        missing = InputError(f"The data docs have no page {name}")
        if not name.endswith(".html"):
            raise missing
        try:
            content = await run_in_threadpool((self._settings.validation_home / "data_docs").read, name)
        except OSError as error:
            raise missing from error
        return HTMLResponse(content, headers=_HEADERS | {"Content-Security-Policy": _DATA_DOCS_POLICY})

    async def get_overview(self, request: Request) -> Response:
        """`GET /console/`: the loop on one page."""
        return self._page(request, "overview.html", **await run_in_threadpool(reads.overview, self._settings))

    async def get_versions(self, request: Request) -> Response:
        """`GET /console/versions`: every decision, and the challenger."""
        decisions = await run_in_threadpool(reads.rows, "console/decisions")
        challenger = await run_in_threadpool(reads.challenger)
        return self._page(request, "versions.html", decisions=decisions, challenger=challenger)

    async def get_version(self, request: Request) -> Response:
        """`GET /console/versions/{number}`: why a version was promoted or refused."""
        found = await run_in_threadpool(reads.version, request.path_params["number"])
        asks_person = self._settings.approval == "person"
        return self._page(request, "version.html", model_name=REGISTERED_MODEL, asks_person=asks_person, **found)

    async def get_experiments(self, request: Request) -> Response:
        """`GET /console/experiments`: arms, intervals, verdicts."""
        return self._page(request, "experiments.html", **await run_in_threadpool(reads.experiments))

    async def get_days(self, request: Request) -> Response:
        """`GET /console/experiments/days.svg`: the CTR by day and arm."""
        return Response(await run_in_threadpool(reads.days_chart), media_type="image/svg+xml", headers=_HEADERS)

    async def get_arm(self, request: Request) -> Response:
        """`GET /console/experiments/arm?experiment=E&arm=A`: its latest visitors."""
        name, arm = request.query_params.get("experiment", ""), request.query_params.get("arm", "")
        visitors = await run_in_threadpool(reads.visitors_of_arm, name, arm)
        return self._page(request, "arm.html", experiment=name, arm=arm, visitors=visitors)

    async def get_monitors(self, request: Request) -> Response:
        """`GET /console/monitors`: what the monitors find, with the figures that moved; alarms."""
        findings = await run_in_threadpool(reads.findings)
        alarms = await run_in_threadpool(reads.rows, "monitoring/alarms")
        return self._page(request, "monitors.html", findings=findings, alarms=alarms)

    async def get_search(self, request: Request) -> Response:
        """`GET /console/search?q=QUERY`: the worst queries of the week, and a query with its signals."""
        query = request.query_params.get("q", "").strip()
        inspected = await run_in_threadpool(reads.inspected_query, self._settings, query) if query else None
        worst = await run_in_threadpool(reads.worst_queries)
        suggested, version = await run_in_threadpool(reads.suggested_synonyms, self._settings)
        return self._page(
            request,
            "search.html",
            worst=worst,
            inspected=inspected,
            query=query,
            suggested=suggested,
            rules_version=version,
        )

    async def get_user(self, request: Request) -> Response:
        """`GET /console/users?id=USER`: history, arm, and current list."""
        user_id = request.query_params.get("id", "").strip()
        found = await run_in_threadpool(reads.user, self._settings, user_id) if user_id else None
        return self._page(request, "user.html", user_id=user_id, found=found)

    async def get_item(self, request: Request) -> Response:
        """`GET /console/items?id=ITEM`: data, neighbors, and why it is or is not shown."""
        item_id = request.query_params.get("id", "").strip()
        found = await run_in_threadpool(reads.item, self._settings, item_id) if item_id else None
        return self._page(request, "item.html", item_id=item_id, found=found)

    async def get_rules(self, request: Request) -> Response:
        """`GET /console/rules`: the rules in use, to edit."""
        current = await run_in_threadpool(reads.rules, self._settings)
        return self._rules_page(request, current, current.rules)

    async def post_preview(self, request: Request) -> Response:
        """`POST /console/rules/preview`: a user's list with edited rules beside the current list."""
        async with request.form() as form:
            check_form(request, form)
            text, user_id = str(form.get("rules", "")), str(form.get("user_id", "")).strip()
            changed = rule_form.parse_rules(text) if form.get("as_json") else rule_form.edit_rules(text, form)
            version = int(_field(form, "version"))
        current = await run_in_threadpool(reads.rules, self._settings)
        if version != current.version:
            raise InputError(
                f"The rules have changed: version {current.version} is in use. Open Rules and repeat your changes"
            )
        preview = await run_in_threadpool(reads.preview, self._settings, user_id, changed)
        return self._rules_page(request, current, changed, preview)

    async def get_audit(self, request: Request) -> Response:
        """`GET /console/audit`: the latest actions."""
        return self._page(request, "audit.html", actions=await run_in_threadpool(reads.rows, "console/actions"))

    def handle_action(self, action: Action) -> Handler:
        """Returns a handler that runs a form's action, and redirects to its outcome: a reload repeats nothing."""

        async def handle(request: Request) -> Response:
            async with request.form() as form:
                check_form(request, form)
                _field(form, "confirm")
                request.session[_OUTCOME] = await run_in_threadpool(action, get_operator(request) or "", form)
            return RedirectResponse(f"{PATH}/outcome", 303)

        return handle

    async def get_outcome(self, request: Request) -> Response:
        """`GET /console/outcome`: what the latest action of this session did."""
        return self._page(request, "outcome.html", outcome=request.session.get(_OUTCOME, "Nothing was done"))

    def promote(self, operator: str, form: FormData) -> str:
        """Promotes a version."""
        if self._settings.has_rollout:
            raise InputError(
                "This deployment has a rollout, which takes longer than a page can wait. Trigger the DAG promote_model"
            )
        return actions.promote(operator, _field(form, "version"), _field(form, "reason"))

    def roll_back(self, operator: str, form: FormData) -> str:
        """Rolls back."""
        return actions.roll_back(operator, _field(form, "version"), _field(form, "reason"))

    def pause(self, operator: str, form: FormData) -> str:
        """Pauses the rollout."""
        return actions.pause_rollout(operator, _field(form, "reason"))

    def resume(self, operator: str, form: FormData) -> str:
        """Resumes the rollout."""
        return actions.resume_rollout(operator, _field(form, "reason"))

    def change_rules(self, operator: str, form: FormData) -> str:
        """Replaces the merchandising rules."""
        version = int(_field(form, "version"))
        return actions.change_rules(self._settings, operator, _field(form, "rules"), version, _field(form, "reason"))

    def accept_synonym(self, operator: str, form: FormData) -> str:
        """Adds a synonym to the rules in use."""
        current, version = reads.rules(self._settings), int(_field(form, "version"))
        added = Synonym(_field(form, "phrase"), _field(form, "means"))
        changed = msgspec.structs.replace(current.rules, synonyms=[*current.rules.synonyms, added])
        text = msgspec.json.encode(changed).decode()
        reason = f"synonym {added.phrase!r} = {added.means!r}: {_field(form, 'reason')}"
        return actions.change_rules(self._settings, operator, text, version, reason)

    def undo_rules(self, operator: str, form: FormData) -> str:
        """Restores the previous version of the rules."""
        version = int(_field(form, "version"))
        previous = reads.previous_rules(self._settings, version)
        text = msgspec.json.encode(previous.rules).decode()
        return actions.change_rules(
            self._settings, operator, text, version, f"version {previous.version} restored: {_field(form, 'reason')}"
        )

    def require_sign_in(self, handler: Handler) -> Handler:
        """Returns a handler that requires sign-in and turns errors into pages."""

        async def handle(request: Request) -> Response:
            if get_operator(request) is None:
                return RedirectResponse(f"{PATH}/sign-in", 303)
            try:
                return await handler(request)
            except ForbiddenRequest as error:
                return self._page(request, "problem.html", 403, problem=str(error))
            except (PromotionRefused, RolloutFailed) as error:
                return self._page(request, "problem.html", 409, problem=str(error))
            except (InputError, ValueError) as error:
                status = 404 if request.method == "GET" else 422
                return self._page(request, "problem.html", status, problem=str(error))
            except (RecsysError, EndpointError, httpx.HTTPError, SQLAlchemyError, MlflowException) as error:
                log.warning("%s %s: %s", request.method, request.url.path, error)
                problem = str(error).partition("\n[SQL")[0]  # without the statement and its parameters
                return self._page(request, "problem.html", 503, problem=problem)

        return handle

    def _rules_page(
        self, request: Request, current: Any, shown: Any, preview: dict[str, Any] | None = None
    ) -> Response:
        return self._page(request, "rules.html", current=current, shown=shown, preview=preview)

    def _page(self, request: Request, name: str, status_code: int = 200, **values: Any) -> Response:
        links = {
            "Airflow": self._settings.airflow_url,
            "MLflow": self._settings.mlflow_url or self._settings.mlflow_tracking_uri,
            "Data docs": self._settings.data_docs_url,
        }
        shown = {label: url for label, url in links.items() if _is_public(url)}
        html = self._templates.get_template(name).render(
            **values,
            path=PATH,
            operator=get_operator(request),
            csrf=get_csrf_token(request),
            links=shown,
            here=request.url.path,
        )
        return HTMLResponse(html, status_code, headers=_HEADERS)


def create_console(chosen: Settings) -> Starlette:
    """Returns the console as an ASGI application.

    Raises:
        ConfigurationError: there is no admin token.
    """
    chosen.require_admin_token()
    console = Console(chosen)

    def page(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(path, console.require_sign_in(handler), methods=[method])

    async def get_style(request: Request) -> Response:
        return FileResponse(_STYLE, media_type="text/css")

    routes = [
        Route("/console.css", get_style),
        Route("/sign-in", console.get_sign_in, methods=["GET"]),
        Route("/sign-in", console.post_sign_in, methods=["POST"]),
        page("/sign-out", console.post_sign_out, "POST"),
        page("/", console.get_overview),
        page("/versions", console.get_versions),
        page("/versions/{number}", console.get_version),
        page("/experiments", console.get_experiments),
        page("/experiments/arm", console.get_arm),
        page("/experiments/days.svg", console.get_days),
        page("/monitors", console.get_monitors),
        page("/search", console.get_search),
        page("/users", console.get_user),
        page("/items", console.get_item),
        page("/rules", console.get_rules),
        page("/rules/preview", console.post_preview, "POST"),
        page("/audit", console.get_audit),
        page("/data-docs/{name:path}", console.get_data_docs),
        page("/outcome", console.get_outcome),
        page("/promote", console.handle_action(console.promote), "POST"),
        page("/roll-back", console.handle_action(console.roll_back), "POST"),
        page("/pause", console.handle_action(console.pause), "POST"),
        page("/resume", console.handle_action(console.resume), "POST"),
        page("/rules", console.handle_action(console.change_rules), "POST"),
        page("/rules/synonyms", console.handle_action(console.accept_synonym), "POST"),
        page("/rules/undo", console.handle_action(console.undo_rules), "POST"),
    ]
    # A random key per process: a restart ends all sessions. The cookie is limited to the console's path.
    session = Middleware(
        SessionMiddleware,
        secret_key=secrets.token_urlsafe(32),
        session_cookie="recsys_console",
        path=PATH,
        max_age=_SESSION_HOURS * 3_600,
        same_site="strict",
    )
    to_overview = [Route(path, lambda _: RedirectResponse(f"{PATH}/")) for path in ("/", PATH)]
    app = Starlette(routes=[*to_overview, Mount(PATH, routes=routes)], middleware=[session])
    app.router.redirect_slashes = False  # a redirect would repeat the `Host` that the caller sent
    return app


def run_console(host: str, port: int) -> None:
    """Runs the console until it is stopped."""
    uvicorn.run(
        create_console(settings()),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _read_template(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _is_public(url: str | None) -> bool:
    """Whether a link may be shown: an address for browsers, without a password."""
    return url is not None and url.startswith("http") and "@" not in url


def _field(form: FormData, name: str) -> str:
    value = form.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"Field {name} is empty. Fill it in and send the form again")
    return value.strip()
