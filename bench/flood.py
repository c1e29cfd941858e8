"""A store opens and all of its held chats become due, while other stores send as before."""

from __future__ import annotations

import functools
import subprocess
import threading
import time

import psycopg

from bench import shop
from bench.delays import percentile, transactions
from bench.figures import OURS, Aim, Row
from bench.stage import Connection, Stage

FLOODED = 1_000_000  # the first conversation of the store that opens
PER_CONVERSATION = 20
FASTEST = 20_000  # chats/s: live chats continue for as long as the flood takes at this rate
LIVE_IDS = 900_000_000  # the first id of the live chats, above those of the flood
LIVE = """\\set number :number + 1
\\set chat {first} + :number
\\set conversation random(1, {conversations})
select * from enqueue_chat(:conversation, 1, 1, '{payload}', 'client', :chat);
"""
# The store's cached opening period sets the opening to the second, which opening hours in minutes cannot.
HOLD = """
with opening as (
    update stores set closed_since = now() - interval '1 hour', opens_at = now() + %(seconds)s * interval '1 second',
                      closes_at = now() + interval '5 hours', looked_up_at = now()
     where store_id = 2 returning opens_at
)
insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)
select opens_at, now(), chat_id, conversation_id, seq, 2 from chats, opening where conversation_id >= %(first)s
"""
DISORDER = """
select count(*) from (
    select seq, lag(seq, 1, 0) over (partition by conversation_id order by position) as before from sent_log) l
 where seq <> before + 1
"""


def run(stage: Stage) -> list[Row]:
    """One flood: how long it lasts, how it delays live chats, what it writes and leaves behind."""
    held = stage.sizes.held
    build = functools.partial(_build, conversations=stage.sizes.conversations, held=held)
    with stage.database(stage.template("flood", build)) as url, stage.connect(url) as db:
        with stage.worker(url):
            calm = _live(stage, url, stage.sizes.live_seconds)
            began = time.monotonic()
            db.execute(HOLD, {"seconds": 3 + held / 20_000, "first": FLOODED})
            stage.say(f"flood, {held:,} held in {time.monotonic() - began:.0f} s")
            updated = _updated(db)
            _wait_for_opening(db)
            watcher = threading.Thread(target=_watch, args=(stage, url))
            watcher.start()
            live = _live(stage, url, 2 + held / FASTEST)
            watcher.join()
        opened = _one(db, "select extract(epoch from opens_at) from stores where store_id = 2")
        ended = _one(db, "select extract(epoch from max(sent_at)) from sent_log where chat_id < 900000000")
        flooded = {at: delay for at, delay in live.items() if opened <= at <= ended} or live
        disorder, left = _one(db, DISORDER), _one(db, "select count(*) from chat_queue")
        notes = [
            f"queue rows rewritten by the release {_updated(db) - updated:.0f} (aim 0),"
            f" out of order {disorder:.0f} (aim 0), left behind {left:.0f} (aim 0); afterwards {_sizes(db)}"
        ]
    conversations = held // PER_CONVERSATION
    title = f"a store opens on {held:,} held chats of {conversations:,} conversations, live chats at 50/s in another"
    before = "without the flood"
    p99 = {OURS: [percentile(list(flooded.values()), 99)], before: [percentile(list(calm.values()), 99)]}
    return [
        Row("flood", title, "s until all are sent", {OURS: [ended - opened]}, {}, notes),
        Row("flood-p99", "meanwhile, of live chats: commit to seen in the log, p99", "ms", p99, {before: Aim("<=", 3)}),
    ]  # fmt: skip


def _build(url: str, conversations: int, held: int) -> None:
    shop.shop(url, conversations)
    count = held // PER_CONVERSATION
    with psycopg.connect(url) as db:
        db.execute(shop.CONVERSATIONS, {"store": 2, "first": FLOODED, "last": FLOODED + count - 1})
    shop.add(url, "select 1", held, count, first=FLOODED)


def _live(stage: Stage, url: str, seconds: float) -> dict[float, float]:
    """Sends chats at 50/s: when each was committed, and after how many milliseconds it was seen."""
    prefix = stage.folder / f"transactions_{time.monotonic_ns()}"
    with stage.connect(url) as listener, stage.connect(url) as db:
        first = int(_one(db, "select max(chat_id) from chats where chat_id >= 900000000", LIVE_IDS))
        text = shop.script(stage, LIVE.replace("{first}", str(first)))
        options = ["-T", str(max(1, round(seconds))), "-R", "50", "-c", "1", "-j", "1", "-D", "number=0"]
        listener.execute("listen chat_sent")
        with stage.process(stage.pgbench(url, text, *options, "-l", f"--log-prefix={prefix}")) as pgbench:
            seen = _read(listener, db, pgbench, first)
    committed = ((first + number, at) for number, at in transactions(prefix))
    return {at: max(0.0, seen[chat] - at) * 1000 for chat, at in committed if chat in seen}


def _read(listener: Connection, db: Connection, producer: subprocess.Popen[bytes], first: int) -> dict[int, float]:
    """When each live chat was seen. Reads until a second after the producer's end."""
    seen: dict[int, float] = {}
    position = int(_one(db, "select max(position) from sent_log"))
    ended = False
    while not ended:
        ended = producer.poll() is not None
        if ended:
            time.sleep(1)
        list(listener.notifies(timeout=0.5, stop_after=1))
        last = int(_one(db, "select max(position) from sent_log"))
        new_entries = "select chat_id from sent_log where position > %s and position <= %s and chat_id > %s"
        rows = db.execute(new_entries, [position, last, first]).fetchall()
        now = time.time()
        seen |= {int(chat): now for (chat,) in rows}
        position = last
    return seen


def _watch(stage: Stage, url: str) -> None:
    """Prints progress until the flood is over."""
    with stage.connect(url) as db:
        while (left := _one(db, "select count(*) from chat_queue where store_id = 2")) > 0:
            stage.say(f"flood, {left:,.0f} left")
            time.sleep(1)


def _wait_for_opening(db: Connection) -> None:
    seconds = _one(db, "select extract(epoch from opens_at - clock_timestamp()) from stores where store_id = 2")
    time.sleep(max(0.0, seconds - 0.5))


def _updated(db: Connection) -> float:
    time.sleep(1.2)  # sessions report their statistics once per second
    return _one(db, "select n_tup_upd from pg_stat_user_tables where relname = 'chat_queue'")


def _sizes(db: Connection) -> str:
    names = ("chat_queue", "chat_queue_live", "chat_queue_held", "chat_queue_pkey")
    return ", ".join(f"{name} {_one(db, f'select pg_relation_size({name!r})') / 2**20:.1f} MB" for name in names)


def _one(db: Connection, statement: str, otherwise: float = 0) -> float:
    row = db.execute(statement).fetchone()
    return otherwise if row is None or row[0] is None else float(row[0])
