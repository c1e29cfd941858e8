"""The worker as a process: killed, stopped, disconnected, and without its database."""

from __future__ import annotations

import random
import signal
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from flask.testing import FlaskClient

from embedded.cluster import Cluster
from sql.install import prepare
from sql.settings import Settings
from tests.support.api import MakeClient
from tests.support.db import Connection, enqueue, enqueue_until, poison, sent, states
from tests.support.processes import Process, Start, eventually, free_port
from tests.support.web import gunicorn
from worker.consumer import Consumer

pytestmark = pytest.mark.system


class LogReader:
    """Reads the log from a cursor as it grows, as every reader does; never reads a position twice."""

    def __init__(self, database: str) -> None:
        self.chats: list[tuple[int, int, int]] = []  # (chat_id, conversation_id, seq)
        self._database = database
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        cursor = 0
        with psycopg.connect(self._database, autocommit=True) as db:
            db.execute("listen chat_sent")
            while not self._done.is_set():
                for position, *chat in db.execute(
                    "select position, chat_id, conversation_id, seq from sent_log"
                    " where position > %s order by position",
                    [cursor],
                ):
                    cursor = position
                    self.chats.append(tuple(chat))
                list(db.notifies(timeout=0.2, stop_after=1))

    def end(self) -> list[tuple[int, int, int]]:
        self._done.set()
        self._thread.join()
        return self.chats


def post_lists(client: FlaskClient, conversations: range, chats: int, enough: threading.Event) -> list[int]:
    """Posts chats over REST, in lists of a hundred. Returns their ids."""
    ids = list[int]()
    while len(ids) < chats or not enough.is_set():
        body = [
            {"conversation_id": random.choice(conversations), "client_id": 1, "operator_id": 1, "payload": "hi"}
            for _ in range(100)
        ]
        answers = client.post("/v1/chats", json=body).get_json()
        ids += [answer["chat_id"] for answer in answers]
    return ids


def kill_one_after_another(
    workers: list[Process], start_one: Callable[[], Process], until: threading.Event, enough: threading.Event
) -> None:
    """Kills a worker every half second, once the one before is replaced: three of four are always up."""
    kills = 0
    try:
        while not until.wait(0.5):
            victim = workers.pop(0)
            assert victim.end(signal.SIGKILL) == -signal.SIGKILL
            workers.append(start_one())
            workers[-1].expect("started")
            kills += 1
            if kills == 5:
                enough.set()
    finally:
        enough.set()


def test_four_workers_killed_twice_a_second_lose_repeat_and_disorder_nothing(
    shop: Connection, database: str, client: FlaskClient, start: Start
) -> None:
    def start_one() -> Process:
        return start("worker", DATABASE_URL=database)

    reader = LogReader(database)
    workers = [start_one() for _ in range(4)]
    for worker in workers:
        worker.expect("listening")
    done, enough = threading.Event(), threading.Event()
    with ThreadPoolExecutor(5) as pool:
        killing = pool.submit(kill_one_after_another, workers, start_one, done, enough)
        jobs = [pool.submit(enqueue_until, database, range(1, 501), 3000, enough) for _ in range(3)]
        jobs.append(pool.submit(post_lists, client, range(1, 501), 8000, enough))
        try:
            accepted = [chat_id for job in jobs for chat_id in job.result()]
            eventually(lambda: shop.execute("select count(*) from chat_queue").fetchone() == (0,))
        finally:
            done.set()
        killing.result()
    eventually(lambda: len(reader.chats) >= len(accepted))
    seen = reader.end()

    assert len(accepted) >= 17_000
    assert sorted(chat_id for chat_id, _, _ in seen) == sorted(accepted)
    order: dict[int, list[int]] = defaultdict(list)
    for _, conversation, seq in seen:
        order[conversation].append(seq)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in order.values())
    assert shop.execute("select count(*) from chat_failures").fetchone() == (0,)


def test_sigterm_ends_a_busy_worker_within_five_seconds_and_loses_nothing(
    shop: Connection, database: str, start: Start
) -> None:
    shop.execute("select enqueue_chat(g % 100 + 1, 1, 1, 'hi') from generate_series(1, 20000) g")
    shop.execute("listen chat_sent")
    worker = start("worker", DATABASE_URL=database)
    list(shop.notifies(timeout=30, stop_after=1))
    assert worker.end(seconds=5) == 0
    left = shop.execute("select count(*) from chat_queue").fetchone()[0]
    assert len(sent(shop)) + left == 20000


def test_a_worker_whose_connections_are_cut_reconnects(shop: Connection, database: str, start: Start) -> None:
    worker = start("worker", DATABASE_URL=database)
    worker.expect("listening")
    shop.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name like 'shoptalk%%' and datname = current_database()"
    )
    enqueue(shop)
    eventually(lambda: states(shop) == ["sent"])
    worker.expect("listening")


def test_another_worker_takes_over_from_one_that_is_stopped(shop: Connection, database: str, start: Start) -> None:
    first, second = (start("worker", DATABASE_URL=database) for _ in range(2))
    for worker in (first, second):
        worker.expect("listening")
    first.popen.send_signal(signal.SIGSTOP)
    enqueue(shop)
    eventually(lambda: states(shop) == ["sent"])
    second.popen.send_signal(signal.SIGSTOP)
    first.popen.send_signal(signal.SIGCONT)
    enqueue(shop)
    eventually(lambda: states(shop) == ["sent", "sent"])
    second.popen.send_signal(signal.SIGCONT)


def test_a_lost_notification_delays_a_chat_only_until_the_next_poll(
    shop: Connection, database: str, start: Start
) -> None:
    start("worker", DATABASE_URL=database).expect("listening")
    enqueue(shop)
    eventually(lambda: states(shop) == ["sent"])
    shop.execute("set session_replication_role = replica")  # no triggers: the notification is lost
    enqueue(shop)
    eventually(lambda: states(shop) == ["sent", "sent"])


def test_a_chat_that_cannot_be_sent_becomes_a_dead_letter_and_the_rest_goes_on(
    shop: Connection, database: str, start: Start
) -> None:
    poison(shop)
    enqueue(shop, 7, "bad")
    enqueue(shop, 8, "good")
    # Four failures ago: the fifth comes now, without waiting for the backoff.
    shop.execute("insert into chat_failures select chat_id, 4, 'x', now() from chats where payload = 'bad'")
    start("worker", DATABASE_URL=database).expect("chat_failed")
    eventually(lambda: states(shop) == ["failed", "sent"])


@pytest.fixture
def cluster(public_folder: Path) -> Cluster:
    return Cluster(public_folder / "data")


def test_every_process_recovers_when_the_database_was_unavailable(
    cluster: Cluster, start: Start, make_client: MakeClient
) -> None:
    with cluster:
        url = cluster.url
        port = url.rpartition(":")[2].partition("/")[0]
        prepare(url)
        worker = start("worker", DATABASE_URL=url)
        worker.expect("listening")
        client = make_client(url)
        client.post("/v1/clients", json={"client_id": 1, "username": "Ann", "location": "Oslo"})
        client.post(
            "/v1/operators", data={"operator_id": 1, "operator_name": "O", "operator_group": "g", "store_id": 1}
        )
        chat = {"conversation_id": 7, "client_id": 1, "operator_id": 1, "payload": "hi"}
        assert client.post("/v1/chats", json=chat).status_code == 201

        cluster.stop()
        for call in (lambda: client.post("/v1/chats", json=chat), lambda: client.get("/readyz")):
            answer = call()
            assert (answer.status_code, answer.content_type) == (503, "application/problem+json")
            assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/healthz").status_code == 200
        worker.expect("database_trouble")

        cluster.start(port=int(port))
        eventually(lambda: client.post("/v1/chats", json=chat).status_code == 201)
        with psycopg.connect(url, autocommit=True) as db:
            eventually(lambda: states(db) == ["sent", "sent"])
        assert worker.end(seconds=5) == 0


def test_a_restart_of_the_database_between_two_requests_costs_no_error(
    cluster: Cluster, make_client: MakeClient
) -> None:
    with cluster:
        url = cluster.url
        prepare(url)
        client = make_client(url)
        assert client.get("/readyz").status_code == 200
        port = int(url.rpartition(":")[2].partition("/")[0])
        cluster.stop()
        cluster.start(port=port)
        assert client.get("/readyz").status_code == 200


def test_a_worker_refuses_a_schema_that_is_newer_than_the_next(shop: Connection, database: str, start: Start) -> None:
    shop.execute("update schema_version set version = version + 2")
    for command in (["worker"], ["sql"], gunicorn()):
        process = start(*command, DATABASE_URL=database, PORT=str(free_port()))
        process.expect("run a newer release")
        assert process.popen.wait(30) != 0


def test_a_batch_too_large_for_the_statement_timeout_is_tried_smaller(
    shop: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would be retried forever, and no chat would be sent any more."""
    monkeypatch.setattr("sql.database.STATEMENT_TIMEOUT_SECONDS", 1)
    shop.execute(
        "create function slow() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.01); return new; end $$;"
        "create trigger slow before insert on sent_log for each row execute function slow()"
    )
    for conversation in range(1, 301):
        enqueue(shop, conversation)
    consumer = Consumer(Settings.from_environment({"DATABASE_URL": database}))
    worker = threading.Thread(target=consumer.run)
    worker.start()
    try:
        eventually(lambda: set(states(shop)) == {"sent"}, 60)
    finally:
        consumer.stop()
        worker.join()
    most = shop.execute("select max(n) from (select count(*) n from sent_log group by sent_at) batches").fetchone()
    assert most is not None
    assert most[0] < 300
