"""Settings of a task's process, read from the Airflow connection `recsys_warehouse`.

Host, port, schema, login and password are the warehouse's. The extra holds other settings by name:
`{"mlflow_tracking_uri": "…", "endpoint_urls": ["…"], "admin_token": "…"}`. Environment variables take precedence.
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
_POSTGRES_OPTIONS = ("sslmode", "sslrootcert", "application_name")


def apply_connection() -> None:
    """Sets environment variables from the connection, unless the environment already names a warehouse."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    if f"{_PREFIX}WAREHOUSE_URL" in os.environ:
        return
    try:
        connection = Connection.get(CONNECTION)
    except AirflowNotFoundException:
        log.info("Connection %s does not exist; settings come from the environment", CONNECTION)
        return
    for name, value in connection_settings(connection).items():
        os.environ.setdefault(_PREFIX + name.upper(), value)
    settings.cache_clear()


def connection_settings(connection: Any) -> dict[str, str]:
    """Returns the settings in a connection, by name. Masks the password in logs, also its encoded form in the URL."""
    from airflow.sdk.log import mask_secret
    from sqlalchemy import URL

    extra = dict(connection.extra_dejson)
    query = {name: str(extra.pop(name)) for name in _POSTGRES_OPTIONS if name in extra}
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
