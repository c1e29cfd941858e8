"""Prevents web from serving other machines without API keys."""

from __future__ import annotations

from sql.database import connect, query
from sql.settings import BadSetting, Settings


def require_keys(settings: Settings) -> None:
    """Raises BadSetting if other machines can reach HOST and there is no key, and psycopg.Error. Needs the schema."""
    if not settings.is_exposed or settings.api_keys:
        return
    with connect(settings.database_url, "shoptalk keys") as connection:
        if any(not row[-1] for row in connection.execute(query("shared/read_keys").text)):
            return
    raise BadSetting(
        f"other machines can reach HOST={settings.host}, but there is no API key: make one, shown once, with"
        " `bin/shoptalk keys make shop`, or set SHOPTALK_API_KEYS, or leave HOST at 127.0.0.1"
    )
