"""Metrics of real processes; and the dashboard, the alerts and the page name only metrics that exist."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import psutil
import psycopg
import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from sql.database import query
from sql.metrics import serve
from sql.settings import BadSetting, Settings
from tests.support.api import MakeClient, bearer
from tests.support.db import Connection
from tests.support.deploy import DEPLOY
from tests.support.processes import ROOT, Start, eventually, free_port
from tests.support.web import KEY, Api, Stream, gunicorn

PYTHONS_OWN = re.compile("python_|process_")


def scrape(port: int, key: str = KEY) -> dict[tuple[str, str], float]:
    """Every sample by its name and labels, as a scraper gets them."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return samples(answer.read().decode())


def samples(text: str) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


class Shop:
    """Web in two processes, a worker and a relay, each asked on its own port."""

    def __init__(self, start: Start, database: str) -> None:
        self.web, self.worker, self.relay = free_port(), free_port(), free_port()
        env = {"DATABASE_URL": database, "SHOPTALK_API_KEYS": KEY, "SHOPTALK_WEBHOOK_ALLOW_PRIVATE": "1"}
        self.processes = {
            "worker": start("worker", SHOPTALK_WORKER_METRICS=str(self.worker), **env),
            "relay": start("relay", SHOPTALK_RELAY_METRICS=f"127.0.0.1:{self.relay}", **env),
            "web": start(*gunicorn(), PORT=str(self.web), WEB_CONCURRENCY="2", **env),
        }
        self.api = Api(self.web)
        eventually(self.api.answers)

    def scrape(self) -> dict[tuple[str, str], float]:
        return scrape(self.web) | scrape(self.worker) | scrape(self.relay)


@pytest.fixture
def whole(shop: Connection, database: str, start: Start) -> Shop:
    return Shop(start, database)


def holds(look: Callable[[], dict[tuple[str, str], float]], **wanted: float) -> Callable[[], bool]:
    """Whether these samples have these values; a name's labels follow two underscores."""
    names = {(name.partition("__")[0], name.partition("__")[2].replace("__", "=")): v for name, v in wanted.items()}
    return lambda: names.items() <= look().items()


def test_every_process_tells_who_has_a_key_what_it_does(whole: Shop, shop: Connection) -> None:
    """One test, because the processes take longer to start than to be asked."""
    only_who_has_a_key_is_told(whole)
    streams = [whole.api.stream("conversation_id=7") for _ in range(4)]
    each_counts_its_work(whole, shop, streams)
    page_dashboard_and_alerts_know_exactly_the_figures_that_there_are(whole, shop)
    a_web_process_that_dies_takes_its_streams_with_it_and_leaves_what_it_counted(whole, streams)


def only_who_has_a_key_is_told(whole: Shop) -> None:
    for port in (whole.web, whole.worker, whole.relay):
        for key in ("", "x"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                scrape(port, key)
            with refused.value as answer:
                assert answer.code == 401
    assert Api(whole.worker).status("/v1/queue") == 404


def each_counts_its_work(whole: Shop, shop: Connection, streams: list[Stream]) -> None:
    hook = json.dumps({"url": f"http://127.0.0.1:{free_port()}/", "secret": "whsec_" + "A" * 32})  # nobody is there
    shop.execute("select put_webhook(1, 'crm', %s, 'whsec_AAAA', 'x', false)", [hook])
    eventually(holds(lambda: scrape(whole.web), shoptalk_streams=4))  # whichever processes have them
    for _ in range(20):
        whole.api.post("/v1/chats", conversation_id=7, client_id=1, operator_id=1, payload="hi")
    for stream in streams:
        stream.chats(20)
    eventually(
        holds(
            lambda: scrape(whole.worker),
            shoptalk_chats_sent_total=20,
            shoptalk_enqueue_to_sent_seconds_count__lane__live=20,
            shoptalk_worker_standing_by=0,
            shoptalk_listener_up__listener__worker=1,
            shoptalk_sending_failures_total__outcome__retry=0,
        )
    )
    told = scrape(whole.worker)
    assert 0 < told["shoptalk_enqueue_to_sent_seconds_sum", "lane=live"] < 20 * 60
    assert told["shoptalk_batch_seconds_count", ""] <= 20
    assert abs(told["shoptalk_hours_kept_timestamp_seconds", ""] - time.time()) < 120
    eventually(lambda: scrape(whole.relay)["shoptalk_deliveries_total", "outcome=failed"] > 0)
    assert scrape(whole.relay)["shoptalk_listener_up", "listener=relay"] == 1

    told = scrape(whole.web)
    assert told["shoptalk_http_request_seconds_count", "method=POST,route=/v1/chats,status=201"] == 20
    assert told["shoptalk_http_request_seconds_count", "method=GET,route=/v1/stream,status=200"] == 4
    assert told["shoptalk_listener_up", "listener=web"] == 1
    assert 20 <= told["shoptalk_stream_chats_total", ""] <= 40  # once a process
    assert 1 <= told["shoptalk_enqueue_to_stream_seconds_count", ""] <= 40
    assert told["shoptalk_database_up", ""] == 1


def page_dashboard_and_alerts_know_exactly_the_figures_that_there_are(whole: Shop, shop: Connection) -> None:
    shop.execute("delete from queue_samples")  # the worker's first is of before there was a channel
    shop.execute("select sample_queue()")
    # A counter is shown from its first count; whatever can only fail is not waited for.
    there = families(whole.scrape()) | {"shoptalk_listener_lost_total"}
    page = set(re.findall(r"^\| `(shoptalk_\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert page == there
    spoken = {
        name: set(re.findall(r"\bshoptalk_\w+", " ".join(expressions(name)))) for name in ("alerts.yml", "grafana.json")
    }
    suffixes = "_(bucket|count)$"
    for name, words in spoken.items():
        assert words, name
        assert {re.sub(suffixes, "", word) for word in words} <= there, name
    assert {re.sub(suffixes, "", word) for word in spoken["grafana.json"]} == there  # and the dashboard shows them all


def families(told: dict[tuple[str, str], float]) -> set[str]:
    """The names as one writes them in expressions, without what a histogram adds to its own."""
    names = {re.sub("_(bucket|count|sum|created)$", "", name) for name, _ in told if not name.endswith("_created")}
    return {name for name in names if not PYTHONS_OWN.match(name)}


def expressions(name: str) -> list[str]:
    text = (DEPLOY / name).read_text()
    if name.endswith(".json"):
        panels = json.loads(text)["panels"]
        return [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return re.findall(r"expr: (.*)", text)


def a_web_process_that_dies_takes_its_streams_with_it_and_leaves_what_it_counted(
    whole: Shop, streams: list[Stream]
) -> None:
    for process in psutil.Process(whole.processes["web"].popen.pid).children():
        process.send_signal(signal.SIGKILL)
    for stream in streams:
        stream.close()

    def told() -> dict[tuple[str, str], float]:
        return scrape(whole.web) if whole.api.answers() else {}

    eventually(holds(told, shoptalk_streams=0))
    assert told()["shoptalk_http_request_seconds_count", "method=GET,route=/v1/stream,status=200"] == 4


def test_the_queues_figures_are_the_samples_and_the_waiting_ones_age_is_now(
    shop: Connection, client: FlaskClient
) -> None:
    assert not [name for name, _ in told_by(client) if name == "shoptalk_queue_chats"]  # no sample yet
    shop.execute("select enqueue_chat(7, 1, 1, 'x', 'client', n) from generate_series(1, 3) n")
    shop.execute("select cancel_chat(2)")
    shop.execute("update chat_queue set due_at = now() - interval '1 hour' where chat_id = 1")
    shop.execute("insert into chat_failures select 2, 5, 'x', now(), now()")
    put = "select put_webhook(1, %s, '{}', 'whsec_AAAA', 'x', false)"
    for name in ("a", "b", "c"):
        shop.execute(put, [name])
    shop.execute("select pause_channel('b', 1)")
    shop.execute("update channels set consecutive_failures = 3 where name = 'c'")
    shop.execute(
        "insert into channel_dead_letters select channel_id, 1, 1, 'x', 1, now() from channels where name = 'c'"
    )
    shop.execute("insert into sent_log select n, n, 99, n, now() - interval '2 hours' from generate_series(1, 5) n")
    shop.execute("select sample_queue()")
    told = told_by(client)
    assert {state: told["shoptalk_queue_chats", f"state={state}"] for state in ("held", "queued", "failed")} == {
        "held": 0, "queued": 2, "failed": 1,
    }  # fmt: skip
    assert told["shoptalk_queue_chats", "state=cancelled"] == 1
    assert told["shoptalk_log_chats_total", ""] == 5
    assert 3600 <= told["shoptalk_queue_oldest_seconds", "state=queued"] < 3700
    assert told["shoptalk_queue_sample_age_seconds", ""] < 60
    assert {labels: value for (name, labels), value in told.items() if name == "shoptalk_channels"} == {
        "kind=webhook,state=active": 1, "kind=webhook,state=paused": 1, "kind=webhook,state=failing": 1,
    }  # fmt: skip
    assert told["shoptalk_relay_lag_positions", "kind=webhook,state=failing"] == 5
    assert 7200 <= told["shoptalk_relay_lag_seconds", "kind=webhook,state=failing"] < 7300
    assert told["shoptalk_channel_dead_letters", "kind=webhook,state=failing"] == 1
    shop.execute("delete from chat_queue; delete from queue_samples; select sample_queue()")
    assert told_by(client)["shoptalk_queue_oldest_seconds", "state=queued"] == 0


def test_a_chat_that_is_passed_over_while_others_go_shows_in_the_age_of_the_queue(
    shop: Connection, client: FlaskClient
) -> None:
    """Its conversation is locked by somebody, say; the look from the last one sent on does not see it."""
    shop.execute("select enqueue_chat(7, 1, 1, 'x'), enqueue_chat(8, 1, 1, 'x'); select send_chats()")
    shop.execute("select enqueue_chat(7, 1, 1, 'x'); update chat_queue set due_at = now() - interval '1 hour'")
    assert shop.execute("select oldest_seconds from queue_pressure()").fetchone() == (0,)
    shop.execute("select sample_queue()")
    assert told_by(client)["shoptalk_queue_oldest_seconds", "state=queued"] >= 3600


def told_by(client: FlaskClient) -> dict[tuple[str, str], float]:
    answer = client.get("/metrics", headers=bearer(KEY))
    assert answer.status_code == 200
    return samples(answer.get_data(as_text=True))


def test_a_scrape_costs_the_same_however_much_is_held(shop: Connection) -> None:
    statement = "explain (analyze, buffers, format json) " + str(query("api/read_gauges"))

    def pages() -> int:
        shop.execute("discard plans")
        row = shop.execute(statement).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    shop.execute("select sample_queue()")
    pages()
    empty = pages()
    shop.execute(
        "insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)"
        " select now() + interval '1 hour', now(), n, n, 1, 2 from generate_series(1, 30000) n"
    )
    assert pages() <= empty + 20


def test_metrics_are_off_unless_asked_for_and_on_loopback_unless_keys_are_asked_for() -> None:
    assert Settings.from_environment({}).worker_metrics is None
    read = Settings.from_environment({"SHOPTALK_WORKER_METRICS": "9101", "SHOPTALK_RELAY_METRICS": "[::1]:9110"})
    assert (read.worker_metrics, read.relay_metrics) == (("127.0.0.1", 9101), ("::1", 9110))
    open_to_all = {"SHOPTALK_WORKER_METRICS": "0.0.0.0:9101"}
    with pytest.raises(BadSetting, match="SHOPTALK_API_KEYS"):
        Settings.from_environment(open_to_all)
    assert Settings.from_environment(open_to_all | {"SHOPTALK_API_KEYS": "k"}).worker_metrics == ("0.0.0.0", 9101)
    for wrong in ("x", "1.2.3.4:", "70000"):
        with pytest.raises(BadSetting, match="SHOPTALK_RELAY_METRICS"):
            Settings.from_environment({"SHOPTALK_RELAY_METRICS": wrong})


def test_a_port_that_is_taken_is_said_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serve(taken.getsockname(), ())
    assert [record.getMessage() for record in caplog.records] == ["metrics_unavailable"]


def test_metrics_say_that_the_database_is_away(
    server: str, shop: Connection, database: str, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, new = make_client(database, api_keys=(KEY,)), make_client(database, api_keys=(KEY,))
    assert told_by(client)["shoptalk_database_up", ""] == 1
    for name in ("CACHE_SECONDS", "NEW_SECONDS"):  # what is known of the keys is too old at once
        monkeypatch.setattr(f"api.gate.keys.{name}", 0.0)
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    with psycopg.connect(server, autocommit=True) as admin:
        end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
        admin.execute(f"alter database {name} allow_connections false")
        try:
            admin.execute(end, [name])
            assert told_by(client)["shoptalk_database_up", ""] == 0
            with client.application.extensions["shoptalk"].keys._lock:  # from then on it waits for no reading of them
                assert told_by(client)["shoptalk_database_up", ""] == 0
            # Only who is known to have a key is told; and only figures, not what is in the database.
            assert client.get("/metrics", headers=bearer("x")).status_code == 503
            assert client.get("/v1/queue", headers=bearer(KEY)).status_code == 503
            assert new.get("/metrics", headers=bearer(KEY)).status_code == 503  # it has never read the keys
        finally:
            admin.execute(f"alter database {name} allow_connections true")
