"""`bin/drill --cluster`: web nodes with many streams on a RabbitMQ cluster (FANOUT=amqp), one of whose nodes is killed.

Three brokers, three web nodes, a worker, two relays. Every stream must get every chat of its conversation once and in
order, and no stream may end.
"""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import psycopg

from drill.account import Figures
from drill.crew import Crew
from drill.rabbit import Node, Rabbit
from drill.shop import Shop
from drill.streams import Streams
from sql.open_files import allow_most_open_files

NODES = 3
STREAMS = 500  # per web node
CONVERSATIONS = 250
CHATS_PER_SECOND = 200
BATCH_SECONDS = 0.05
DRAIN_SECONDS = 60
ENQUEUE = "select enqueue_chat(c, 1, 1, 'hi') from unnest(%s::integer[]) c"


def run(folder: Path, seconds: float, seed: int) -> Figures:
    """Kills a broker after a third of the time, restarts it after two thirds, accounts, and prints the report."""
    chance = random.Random(seed)  # noqa: S311  # seeded, nothing secret
    allow_most_open_files()
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(Shop(folder))
        print("starting the cluster", flush=True)
        rabbit = stack.enter_context(Rabbit(folder / "rabbit", NODES))
        crews = [stack.enter_context(crew) for crew in make_crews(shop, rabbit, folder)]
        streams = open_streams(crews)
        stack.callback(streams.stop)
        print(f"{len(streams.conversations):,} streams are open on {NODES} web nodes", flush=True)
        with shop.connect("drill producer") as session:
            load(session, chance, seconds / 3)
            victim, connections = busiest(rabbit, crews)
            killed_at = time.time()
            victim.kill()
            print(f"killed {victim.name}, which had {connections} of our connections", flush=True)
            load(session, chance, seconds / 3)
            victim.launch()
            load(session, chance, seconds / 3)
        wrong = await_account(shop, streams)
        report(shop, streams, killed_at)
    for name, found in wrong.items():
        print(f"{name:<20} {len(found):,}  {'; '.join(found[:3])}", flush=True)
    return wrong


def make_crews(shop: Shop, rabbit: Rabbit, folder: Path) -> list[Crew]:
    """One web process each; the first with a worker, the others with a relay."""
    settings = {"FANOUT": "amqp", "AMQP_URL": rabbit.urls, "WEB_CONCURRENCY": "1"}
    crews = []
    for number, companion in enumerate(("worker", "relay", "relay"), 1):
        place = folder / f"web-node{number}"
        place.mkdir()
        crews.append(Crew(shop.url, place, (companion,), 1, settings))
    return crews


def open_streams(crews: list[Crew]) -> Streams:
    """STREAMS on each web node, spread over the conversations."""
    streams = Streams()
    streams.start()
    for number in range(STREAMS):
        for crew in crews:
            streams.open(crew.port, 1 + number % CONVERSATIONS)
    streams.await_started()
    return streams


def load(session: psycopg.Connection[tuple[object, ...]], chance: random.Random, seconds: float) -> None:
    """Enqueues CHATS_PER_SECOND, whatever happens to the rest."""
    began = time.monotonic()
    done = 0
    while (elapsed := time.monotonic() - began) < seconds:
        count = int(elapsed * CHATS_PER_SECOND) - done
        session.execute(ENQUEUE, [[chance.randint(1, CONVERSATIONS) for _ in range(count)]])
        done += count
        time.sleep(BATCH_SECONDS)


def busiest(rabbit: Rabbit, crews: list[Crew]) -> tuple[Node, int]:
    """The broker with most connections from our processes, and their number."""
    counts = {node.port: 0 for node in rabbit.nodes}
    for crew in crews:
        for connection in crew.connections():
            if connection in counts:
                counts[connection] += 1
    node = max(rabbit.nodes, key=lambda node: counts[node.port])
    return node, counts[node.port]


def await_account(shop: Shop, streams: Streams) -> Figures:
    """The figures, as soon as all are 0, or after DRAIN_SECONDS."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        wrong = account(shop, streams)
        if not any(wrong.values()) or time.monotonic() > deadline:
            return wrong
        time.sleep(0.5)


def account(shop: Shop, streams: Streams) -> Figures:
    """Compares each stream with its conversation."""
    with shop.connect("drill account") as session:
        last: dict[int, int] = dict(session.execute("select conversation_id, last_seq from conversations").fetchall())
        left = session.execute("select count(*) from chat_queue").fetchone()
    wrong: Figures = {"lost": [], "repeated": [], "out of order": [], "cut": [], "wrong chats": streams.wrong_chats}
    for number, conversation in streams.conversations.items():
        seqs, stream = list(streams.seqs[number]), f"stream {number} of conversation {conversation}"
        missing = set(range(1, last.get(conversation, 0) + 1)).difference(seqs)
        wrong["lost"] += [f"{stream}: {len(missing)}"] if missing else []
        wrong["repeated"] += [stream] if len(set(seqs)) < len(seqs) else []
        wrong["out of order"] += [stream] if seqs != sorted(seqs) else []
        wrong["cut"] += [stream] if number in streams.cut else []
    return wrong | {"stuck": [str(left[0])] if left and left[0] else []}


def report(shop: Shop, streams: Streams, killed_at: float) -> None:
    """Counts, and delays: with all brokers up, and in the ten seconds after one was killed."""
    chats = shop.one("select count(*) from sent_log")
    print(f"{chats:,} chats sent, {len(streams.delays):,} events in {len(streams.conversations):,} streams", flush=True)
    calm = sorted(delay for at, delay in streams.delays if not killed_at <= at < killed_at + 10)
    after = sorted(delay for at, delay in streams.delays if killed_at <= at < killed_at + 10)
    for name, values in (("calm", calm), ("10 s after the kill", after)):
        if values:
            p50, p99 = (values[int(len(values) * share)] * 1000 for share in (0.5, 0.99))
            print(f"from sent to read, {name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {values[-1] * 1000:.0f} ms")
