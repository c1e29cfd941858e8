"""Refuses to serve other machines while nothing would ask them who they are."""

from __future__ import annotations

from sql.database import connect, query
from sql.settings import BadSetting, Settings


def insist_on_keys(settings: Settings) -> None:
    """Raises BadSetting where HOST lets other machines in and there is no key. Needs the schema; psycopg.Error."""
    if not settings.is_exposed or settings.api_keys:
        return
    with connect(settings.database_url, "shoptalk keys") as connection:
        if any(not row[-1] for row in connection.execute(query("read_keys").text)):
            return
    raise BadSetting(
        f"HOST={settings.host} lets other machines in, and nothing would ask them who they are: make a key, shown once,"
        " with `bin/shoptalk keys make shop`, or set SHOPTALK_API_KEYS, or leave HOST at 127.0.0.1"
    )
