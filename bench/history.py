"""The same work on an empty database and on one with a long history and many held chats."""

from __future__ import annotations

import functools

from bench import shop, web
from bench.drains import drain_at
from bench.figures import OURS, Aim, Row
from bench.rounds import rounds
from bench.stage import Stage

EMPTY = "without them"


def run(stage: Stage) -> list[Row]:
    """Claiming, POST and GET of a conversation on both in turn, so that both grow equally."""
    sizes = stage.sizes
    long = functools.partial(shop.long_history, conversations=sizes.conversations, sent=sizes.history, held=sizes.held)
    short = functools.partial(shop.talked, conversations=sizes.conversations)
    # Uses the templates themselves: the long one takes too long to copy.
    urls = {
        OURS: stage.url(stage.template("history", long)),
        EMPTY: stage.url(stage.template("no_history", short)),
    }
    parts = {
        "history-get": ("GET of a conversation of 50 chats", "requests/s", functools.partial(_answered, stage, "get")),
        "history-claim": ("drain with one worker", "chats/s", functools.partial(_claimed, stage)),
        "history-post": ("POST /app/startChat/", "requests/s", functools.partial(_answered, stage, "post")),
    }
    size = f"{sizes.history:,} chats of history and {sizes.held:,} held"
    if sizes.history < 10_000_000:
        size += f" (the full run has {10_000_000:,} and {1_000_000:,})"
    rows = []
    for name, (title, unit, measure) in parts.items():
        values = rounds(stage, name, {contender: functools.partial(measure, url) for contender, url in urls.items()})
        rows.append(Row(name, f"{size}: {title}", unit, values, {EMPTY: Aim(">=", round(1 / 1.2, 2))}))
    return rows


def _claimed(stage: Stage, url: str) -> float:
    shop.add(url, shop.QUEUED, stage.sizes.chats, stage.sizes.conversations)
    with stage.connect(url) as db:
        db.execute("vacuum (analyze) chat_queue")
        db.execute("checkpoint")
    rate, _ = drain_at(stage, url)
    return rate


def _answered(stage: Stage, what: str, url: str) -> float:
    requests = {"get": web.gets, "post": web.posts}[what](stage)
    with stage.web(url) as (port, _):
        web.load(port, requests, min(1, stage.sizes.seconds / 2))
        return web.load(port, requests, stage.sizes.seconds)
