"""The REST API: POST of one chat and GET of fifty, compared with minimal views; lists of 1,000, compared with SQL."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bench import shop
from bench.figures import OURS, Aim, Row
from bench.rounds import rounds
from bench.stage import ROOT, Stage

MINIMAL = "bench.minimal_app:create_app()"
LIST = 1000


def run(stage: Stage) -> list[Row]:
    """POST and GET, answered by two processes."""
    template = stage.template("talk", functools.partial(shop.talked, conversations=stage.sizes.conversations))
    post, get = "a view that only inserts a row", "a view that only selects it"
    posted = rounds(
        stage,
        "post",
        {
            OURS: lambda: measure(stage, template, posts(stage)),
            post: lambda: measure(stage, template, posts(stage), MINIMAL),
            "shoptalk with a worker beside it": lambda: measure(stage, template, posts(stage), worker=True),
        },
    )
    got = rounds(
        stage,
        "get",
        {
            OURS: lambda: measure(stage, template, gets(stage)),
            get: lambda: measure(stage, template, gets(stage), MINIMAL),
        },
    )
    where = "16 connections, 2 processes"
    return [
        Row("post", f"POST /app/startChat/, {where}", "requests/s", posted, {post: Aim(">=", 0.6)}),
        Row("get", f"GET of a conversation of 50 chats, {where}", "requests/s", got, {get: Aim(">=", 0.6)}),
    ]


def bulk(stage: Stage) -> list[Row]:
    """POST /v1/chats with lists of 1,000, 4 connections."""
    template = shop.template(stage)
    values = rounds(
        stage,
        "bulk",
        {
            OURS: lambda: LIST * measure(stage, template, lists(stage), connections=4),
            "enqueue_chats() by SQL, 2 sessions": lambda: _by_sql(stage, template, ENQUEUE_ALL),
            "plain SQL: one insert of 1,000 rows, 2 sessions": lambda: _by_sql(stage, template, INSERT_ALL),
        },
    )
    title = "POST /v1/chats in lists of 1,000, 4 connections, 2 processes"
    return [Row("bulk", title, "chats/s", values, {OURS: Aim(">=", 20_000)})]


ENQUEUE_ALL = """
select *
  from enqueue_chats(%s::int[], array_fill(1, array[1000]), array_fill(1, array[1000]), %s::text[],
                     array_fill('client'::text, array[1000]), array_fill(null::bigint, array[1000])) r
 order by index
"""
INSERT_ALL = "insert into bench_plain (conversation_id, payload) select * from unnest(%s::int[], %s::text[])"


def _by_sql(stage: Stage, template: str, statement: str) -> float:
    """Chats/s of two sessions that execute the statement with 1,000 chats at a time."""
    conversations = [1 + n % stage.sizes.conversations for n in range(LIST)]
    values = [conversations, [shop.PAYLOAD] * LIST]

    def session(url: str) -> int:
        done, until = 0, time.monotonic() + stage.sizes.seconds
        with stage.connect(url) as db:
            while time.monotonic() < until:
                db.execute(statement, values).fetchall() if statement == ENQUEUE_ALL else db.execute(statement, values)
                done += LIST
        return done

    with stage.database(template) as url, ThreadPoolExecutor(2) as pool:
        with stage.connect(url) as db:
            db.execute(shop.PLAIN_TABLE)
        began = time.monotonic()
        return sum(pool.map(session, [url, url])) / (time.monotonic() - began)


def measure(
    stage: Stage,
    template: str,
    requests: list[str],
    app: str = "api.app:create_app()",
    connections: int = 16,
    worker: bool = False,
) -> float:
    """Requests/s that the app answers, on a fresh copy of the template."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(stage.database(template))
        port, _ = stack.enter_context(stage.web(url, app))
        if worker:
            stack.enter_context(stage.worker(url))
        load(port, requests, min(1, stage.sizes.seconds / 2), connections)
        return load(port, requests, stage.sizes.seconds, connections)


def load(port: int, requests: list[str], seconds: float, connections: int = 16) -> float:
    """Requests/s answered on the port. Raises RuntimeError if an answer is not 2xx."""
    job = {"port": port, "connections": connections, "seconds": seconds, "requests": requests}
    done = subprocess.run(
        [sys.executable, "-m", "bench.http_load"],
        cwd=ROOT,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    if result["bad"]:
        raise RuntimeError(f"{result['bad']} of {result['answers']} requests failed")
    return float(result["answers"] / result["seconds"])


def posts(stage: Stage) -> list[str]:
    """A POST for each conversation."""
    return [_post("/app/startChat/", _chat(n)) for n in _numbers(stage)]


def gets(stage: Stage) -> list[str]:
    """A GET for each conversation."""
    return [f"GET /app/getConversation/{n}/ HTTP/1.1\r\nHost: bench\r\n\r\n" for n in _numbers(stage)]


def lists(stage: Stage) -> list[str]:
    """A POST of a list of 1,000 chats, over all conversations."""
    numbers = _numbers(stage)
    return [_post("/v1/chats", [_chat(numbers[n % len(numbers)]) for n in range(LIST)])]


def _numbers(stage: Stage) -> list[int]:
    return list(range(1, stage.sizes.conversations + 1))


def _chat(conversation: int) -> dict[str, object]:
    return {"conversation_id": conversation, "client_id": 1, "operator_id": 1, "payload": shop.PAYLOAD}


def _post(path: str, data: object) -> str:
    body = json.dumps(data)
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}"
