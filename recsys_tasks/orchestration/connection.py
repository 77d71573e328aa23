"""One Airflow connection, `recsys_warehouse`, as the settings of a task's process.

Its host, port, schema, login and password are the warehouse's; other settings stand in its extra, by their names:
`{"mlflow_tracking_uri": "…", "endpoint_urls": ["…"], "admin_token": "…"}`. A variable of the environment goes first.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from recsys_tasks.settings import settings

log = logging.getLogger(__name__)
CONNECTION = "recsys_warehouse"
_PREFIX = "RECSYS_"
_OF_POSTGRES = ("sslmode", "sslrootcert", "application_name")


def configure() -> None:
    """Takes the connection's values as settings, unless the environment names a warehouse already."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    if f"{_PREFIX}WAREHOUSE_URL" in os.environ:
        return
    try:
        found = Connection.get(CONNECTION)
    except AirflowNotFoundException:
        log.info("There is no connection %s: settings come from the environment", CONNECTION)
        return
    for name, value in values_of(found).items():
        os.environ.setdefault(_PREFIX + name.upper(), value)
    settings.cache_clear()


def values_of(connection: Any) -> dict[str, str]:
    """The connection as settings, texts by name; its password is masked in logs, also as it stands in the URL."""
    from airflow.sdk.log import mask_secret
    from sqlalchemy import URL

    extra = dict(connection.extra_dejson)
    query = {name: str(extra.pop(name)) for name in _OF_POSTGRES if name in extra}
    is_socket = (connection.host or "").startswith("/")
    url = URL.create(
        "postgresql+psycopg",
        username=connection.login,
        password=connection.password,
        host=None if is_socket else connection.host,
        port=connection.port,
        database=connection.schema,
        query=query | ({"host": connection.host} if is_socket else {}),
    ).render_as_string(hide_password=False)
    if connection.password:
        mask_secret(url)
        mask_secret(url.split("://", 1)[1].rsplit("@", 1)[0].split(":", 1)[1])
    others = {name: value if isinstance(value, str) else json.dumps(value) for name, value in extra.items()}
    return {"warehouse_url": url, **others}
