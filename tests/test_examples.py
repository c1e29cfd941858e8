"""Every example of the API's description is made again, in its order, and has to be answered as it says.

SHOPTALK_RECORD_EXAMPLES=1 records the answers of today; nobody writes those in api/wire/examples.json by hand.
"""

from __future__ import annotations

import json
import os
from typing import Any

import psycopg
from flask.testing import FlaskClient

from api.wire.examples import FILE, by_operation
from tests.support.api import MASTER, MakeClient, bearer
from tests.support.db import Connection

NOON = "2026-11-24 11:30:00+00"  # a Tuesday
RANDOM = {"token", "expires_at"}
WITHOUT = {"/metrics", "/openapi.json", "/app/", "/v1/stream"}  # they answer no JSON of their own


def played(client: FlaskClient, db: Connection) -> list[dict[str, Any]]:
    """The steps of the file with what was answered just now."""
    steps = json.loads(FILE.read_text("utf-8"))
    for step in steps:
        if "sql" in step:
            db.execute(step["sql"])
            continue
        method, path = step["call"].split(" ")
        answer = client.open(path, method=method, json=step.get("body"), headers=bearer(MASTER))
        told = answer.get_json() if answer.data else None
        if isinstance(told, dict) and "answer" in step:
            told |= {name: step["answer"][name] for name in RANDOM & told.keys()}
        step |= {"status": answer.status_code} | ({} if told is None else {"answer": told})
    return steps


def test_every_example_is_answered_as_it_says(database: str, db: Connection, make_client: MakeClient) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    db.execute(f"alter database {name} set shoptalk.now = '{NOON}'")
    with psycopg.connect(database, autocommit=True) as stopped:  # a new session: its clock stands
        now = played(make_client(database, api_keys=(MASTER,)), stopped)
    text = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
    if "SHOPTALK_RECORD_EXAMPLES" in os.environ:
        FILE.write_text(text, "utf-8")
    assert json.loads(text) == json.loads(FILE.read_text("utf-8"))


def test_every_operation_has_an_example_and_none_is_of_trouble(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    missing = {
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path not in WITHOUT and '"examples"' not in json.dumps(operation)
    }
    assert not missing
    kept = [example for found in by_operation(client.application).values() for example in found]
    assert len(kept) > 60
    assert not [example for example in kept if example["status"] >= 500]
