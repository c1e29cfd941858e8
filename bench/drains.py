"""The drain: a full queue, sent by our worker, by the least SQL that could do it, and by other queues."""

from __future__ import annotations

import contextlib
import functools
import time

from bench import peers, shop
from bench.figures import OURS, Aim, Row
from bench.rounds import rounds
from bench.stage import Connection, Stage, await_, count_sessions

BATCH = 500  # as for PgQueuer
LARGE_BATCH = 4000  # the size that our worker's batches reach in a backlog
LEAST = "plain SQL: queue row deleted, log row inserted"
LARGE = f"the same by batches of {LARGE_BATCH:,}"
ONCE = "plain SQL, both tables keyed by conversation"

# The least that could do: queue rows deleted and log rows inserted, in one global order. No hours, no conversations.
LIMIT = """
create table queue_rows (due_at timestamptz not null, chat_id bigint not null,
                       conversation_id int not null, seq int not null);
create index on queue_rows (due_at, seq);
create table log (position bigint generated always as identity primary key, chat_id bigint not null,
                  conversation_id int not null, seq int not null, sent_at timestamptz not null);
insert into queue_rows select now() - interval '1 minute' + g * interval '1 microsecond', g, g % {conversations}, g
  from generate_series(1, {chats}) g;
"""
# The keys that make the log refuse a chat twice, and let the queue be searched by conversation.
KEYS = """
alter table log add unique (conversation_id, seq);
alter table queue_rows add primary key (conversation_id, seq);
"""
LIMIT_STEP = """
with claimed as materialized (
    select ctid as row_id, chat_id, conversation_id, seq from queue_rows where due_at <= now()
     order by due_at, seq limit %s for update skip locked
), acked as (
    delete from queue_rows q using claimed c where q.ctid = c.row_id
), logged as (
    insert into log (chat_id, conversation_id, seq, sent_at)
    select chat_id, conversation_id, seq, now() from claimed
)
select count(*) from claimed
"""


def run(stage: Stage) -> list[Row]:
    """The rows drain, takeover and uneven, measured in the same rounds."""
    sizes = stage.sizes
    even = stage.template("even", functools.partial(shop.queued, chats=sizes.chats, conversations=sizes.conversations))
    uneven = stage.template(
        "uneven", functools.partial(shop.queued, chats=sizes.chats, conversations=sizes.conversations, uneven=True)
    )
    gaps: list[float] = []
    values = rounds(
        stage,
        "drain",
        {
            OURS: lambda: drain(stage, even),
            LEAST: lambda: limit(stage),
            LARGE: lambda: limit(stage, batch=LARGE_BATCH),
            ONCE: lambda: limit(stage, KEYS),
            "two workers": lambda: drain(stage, even, workers=2, gaps=gaps),
            "uneven": lambda: drain(stage, uneven),
        },
        peers.contenders(stage) if sizes.peers else {},
    )
    two, one_tenth = values.pop("two workers"), values.pop("uneven")
    aims = {
        LEAST: Aim(">=", 0.7),
        peers.PGQUEUER: Aim(">=", 4),
        peers.PROCRASTINATE: Aim(">=", 200),
    }
    size = f"{sizes.chats:,} queued chats of {sizes.conversations:,} conversations"
    return [
        Row("drain", f"{size}, one worker", "chats/s", values, {k: v for k, v in aims.items() if k in values}),
        Row(
            "takeover",
            "the same, two workers, one killed (-9) in the middle",
            "chats/s",
            {OURS: two, "one worker": values[OURS]},
            {"one worker": Aim(">=", 1)},
            [f"longest pause between two batches {max(gaps) * 1000:.0f} ms (aim ≤ 1000), in order every time"],
        ),
        Row(
            "uneven",
            "the same, one worker, one conversation has a tenth of all",
            "chats/s",
            {OURS: one_tenth, "even": values[OURS]},
            {"even": Aim(">=", 0.6)},
        ),
    ]


def drain(stage: Stage, template: str, workers: int = 1, gaps: list[float] | None = None) -> float:
    """Chats/s of our worker. With two workers one is killed in the middle; the longest pause is appended to `gaps`."""
    with stage.database(template) as url:
        rate, gap = drain_at(stage, url, workers)
    if gaps is not None:
        gaps.append(gap)
    return rate


def drain_at(stage: Stage, url: str, workers: int = 1) -> tuple[float, float]:
    """(chats/s, longest pause between two batches in seconds) of sending the due chats of the database."""
    with contextlib.ExitStack() as stack:
        db = stack.enter_context(stage.connect(url))
        gate = stack.enter_context(stage.connect(url))
        start = _position(db)
        due = int(_one(db, "select count(*) from chat_queue where due_at <= now()"))
        # The workers first wait for the lock, so that the time they take to start is not measured.
        gate.execute("select pg_advisory_lock(sender_lock())")
        started = [stack.enter_context(stage.worker(url)) for _ in range(workers)]
        await_(lambda: count_sessions(db, "shoptalk worker") >= workers)
        gate.execute("select pg_advisory_unlock(sender_lock())")
        if workers > 1:
            _await_position(db, start + due // 2)
            started[0].kill()
        _await_position(db, start + due)
        return _result(db, start)


def _result(db: Connection, start: int) -> tuple[float, float]:
    """The rate by the timestamps of the log, which are when each batch began. Raises RuntimeError if out of order."""
    row = db.execute(
        "select count(*) from (select seq - lag(seq) over (partition by conversation_id order by position) as step"
        " from sent_log where position > %s) s where step <> 1",
        [start],
    ).fetchone()
    if row != (0,):
        raise RuntimeError(f"{row} chats were sent out of order")
    row = db.execute(
        "select sum(chats) - min(chats) filter (where last), extract(epoch from max(sent_at) - min(sent_at)),"
        " extract(epoch from max(gap)) from (select sent_at, count(*) as chats,"
        " sent_at - lag(sent_at) over (order by sent_at) as gap, lead(sent_at) over (order by sent_at) is null as last"
        " from sent_log where position > %s group by sent_at) b",
        [start],
    ).fetchone()
    assert row is not None
    return float(row[0]) / float(row[1]), float(row[2])


def limit(stage: Stage, keys: str = "", batch: int = BATCH) -> float:
    """Chats/s of LIMIT_STEP from one session, with or without KEYS."""
    sizes = stage.sizes

    def build(url: str) -> None:
        with stage.connect(url) as db:
            db.execute(LIMIT.format(chats=sizes.chats, conversations=sizes.conversations) + keys, prepare=False)

    with (
        stage.database(stage.template("queue_rows_once" if keys else "queue_rows", build)) as url,
        stage.connect(url) as db,
    ):
        db.execute("set enable_seqscan = off")
        db.execute(LIMIT_STEP, [batch])
        started, sent = time.monotonic(), 0
        while (row := db.execute(LIMIT_STEP, [batch]).fetchone()) and row[0]:
            sent += row[0]
        return sent / (time.monotonic() - started)


def _one(db: Connection, statement: str) -> int:
    row = db.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


def _position(db: Connection) -> int:
    return _one(db, "select coalesce(max(position), 0) from sent_log")


def _await_position(db: Connection, position: int) -> None:
    await_(lambda: _position(db) >= position)
