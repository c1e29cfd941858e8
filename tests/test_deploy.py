"""The files in deploy/, each used by its program. Only their ports, paths and accounts are changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from sql.settings import BadSetting, Settings
from tests.support.db import Connection
from tests.support.deploy import DEPLOY, render
from tests.support.processes import ROOT, Start, eventually, find_program, free_port
from tests.support.web import KEY, Api, gunicorn

pytestmark = pytest.mark.system

CHAT = {"conversation_id": 7, "client_id": 1, "operator_id": 1, "payload": "hi"}
LOOSEST_EXPOSURE = 15  # tenths: systemd's own measure, 0 to 100


@pytest.fixture
def web_port(shop: Connection, database: str, start: Start) -> int:
    """The port of a web process that has a worker beside it."""
    port = free_port()
    start("worker", DATABASE_URL=database)
    start(*gunicorn(), DATABASE_URL=database, PORT=str(port), WEB_CONCURRENCY="1", SHOPTALK_API_KEYS=KEY)
    eventually(Api(port).answers)
    return port


def talk_through(proxy: Api) -> None:
    """What a proxy must not spoil: an event arrives when it is sent, and requests get through."""
    stream = proxy.stream("conversation_id=7")
    try:
        for _ in range(3):  # a buffer would keep each of them, for the stream does not end
            sent = proxy.post("/v1/chats", **CHAT)
            assert stream.chats(1)[0]["chat_id"] == sent["chat_id"]
    finally:
        stream.close()
    largest = json.dumps([{**CHAT, "payload": "\\u0001" * 299}] * 1000).replace("\\\\", "\\").encode()
    assert len(largest) > 1_800_000
    assert proxy.status("/v1/chats", largest) == 200
    assert proxy.status("/v1/chats", b" " * (5 * 2**20 + 1)) == 413
    assert proxy.status("/metrics") == 404
    assert proxy.status("/v1/queue") == 200


# The proxies -------------------------------------------------------------------------------------------


def test_a_stream_goes_through_nginx(web_port: int, run: Start, public_folder: Path) -> None:
    nginx = find_program("nginx")
    certificate, key = public_folder / "fullchain.pem", public_folder / "privkey.pem"
    subject = ["-subj", "/CN=chat.shop.example", "-days", "1", "-nodes"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    plain, tls = free_port(), free_port()
    site = render(
        "nginx.conf",
        public_folder,
        {
            "server 127.0.0.1:8000;": f"server 127.0.0.1:{web_port};",
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "listen 443 ssl": f"listen 127.0.0.1:{tls} ssl",
            "/etc/ssl/shoptalk": str(public_folder),
        },
    )
    temporary = "".join(
        f"{kind}_temp_path {public_folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = public_folder / "whole.conf"
    # As Debian's own nginx.conf has it: with gzip on, which must not hold events back.
    whole.write_text(
        f"daemon off; pid {public_folder}/pid; error_log stderr; events {{}}"
        f" http {{ {temporary} access_log off; gzip on; gzip_types *; include {site}; }}"
    )
    subprocess.run([nginx, "-t", "-c", str(whole)], check=True, capture_output=True)
    run(nginx, "-c", str(whole))
    proxy = Api(tls, tls=True)
    eventually(proxy.answers)
    talk_through(proxy)
    assert Api(plain).status("/v1/queue") == 301


def test_a_stream_goes_through_caddy(web_port: int, run: Start, tmp_path: Path) -> None:
    caddy = find_program("caddy")
    folders = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    check = [caddy, "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
    subprocess.run(check, check=True, capture_output=True, env=os.environ | folders)
    port = free_port()
    site = render(
        "Caddyfile",
        tmp_path,
        {
            "# Caddy in front": "{\nadmin off\nauto_https off\n}\n# Caddy in front",
            "chat.shop.example {": f"http://127.0.0.1:{port} {{",
            "127.0.0.1:8000": f"127.0.0.1:{web_port}",
        },
    )
    run(caddy, "run", "--adapter", "caddyfile", "--config", str(site), **folders)
    proxy = Api(port)
    eventually(proxy.answers)
    talk_through(proxy)


# The pooler --------------------------------------------------------------------------------------------


def test_everything_works_through_pgbouncer_in_transaction_mode(
    pooler: str, database: str, shop: Connection, start: Start
) -> None:
    env = {"DATABASE_URL": pooler, "SHOPTALK_DIRECT_URL": database}
    port = free_port()
    assert start("sql", **env).popen.wait(60) == 0
    workers = [start("worker", **env) for _ in range(2)]
    web = start(*gunicorn(), PORT=str(port), SHOPTALK_API_KEYS=KEY, **env)
    relay = start("relay", **env)
    api = Api(port)
    eventually(api.answers)
    workers[0].expect("listening")
    relay.expect("started")

    stream = api.stream("client_id=1")
    try:
        with ThreadPoolExecutor(8) as clients:  # far more statements at once than the pooler has connections
            list(clients.map(lambda n: api.post("/v1/chats", **CHAT | {"conversation_id": 1 + n % 8}), range(240)))
        chats = stream.chats(240)
    finally:
        stream.close()
    seqs: dict[int, list[int]] = {}
    for chat in chats:
        seqs.setdefault(chat["conversation_id"], []).append(chat["seq"])
    assert seqs == {conversation: list(range(1, 31)) for conversation in range(1, 9)}

    for process in (*workers, web, relay):
        assert not [line for line in process.lines if "WARNING" in line or "ERROR" in line], process.lines
    admin = psycopg.connect(psycopg.conninfo.make_conninfo(pooler, dbname="pgbouncer"), autocommit=True)
    with admin:
        pools = admin.execute("show pools").fetchall()
        databases = admin.execute("show databases").fetchall()
    assert [row for row in pools if row[0] == "shoptalk" and "transaction" in row]
    assert [row for row in databases if row[0] == "shoptalk"]


def test_what_a_session_of_ours_sets_every_pooled_one_has(pooler: str) -> None:
    first, second = (psycopg.connect(pooler, autocommit=True) for _ in range(2))
    with first, second, first.transaction():  # so the second gets the other connection to the server
        for session in (first, second):
            rows = [session.execute(f"show {name}").fetchone() for name in ("statement_timeout", "lock_timeout")]
            assert rows == [("15s",), ("1s",)]


# The supervisors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["shoptalk-web.service", "shoptalk-worker@.service", "shoptalk-relay.service"])
def test_systemd_accepts_its_units_and_finds_them_closed(unit: str, tmp_path: Path) -> None:
    analyze = find_program("systemd-analyze")
    path = render(f"systemd/{unit}", tmp_path, {"/opt/shoptalk/.venv": str(ROOT / ".venv")})
    if "@" in unit:
        path = path.rename(tmp_path / unit.replace("@", "@1"))
    verified = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True)
    said = [line for line in verified.stderr.splitlines() if unit.partition("@")[0].removesuffix(".service") in line]
    assert (verified.returncode, said) == (0, []), verified.stderr
    security = [analyze, "security", "--offline=true", f"--threshold={LOOSEST_EXPOSURE}", str(path)]
    subprocess.run(security, check=True, capture_output=True)


@pytest.mark.timeout(300)  # five processes to start and to end, on a busy machine
def test_supervisord_starts_every_process_and_ends_them(
    shop: Connection, database: str, run: Start, tmp_path: Path
) -> None:
    supervisord = find_program("supervisord")
    port, socket = free_port(), tmp_path / "supervisor.sock"
    config = render(
        "supervisord.conf",
        tmp_path,
        {
            "user=root\n": "",
            "user=shoptalk\n": "",
            "directory=/opt/shoptalk": f"directory={ROOT}",
            "/run/shoptalk": str(tmp_path),
            ".venv/bin/python": sys.executable,
            "minfds=65536": "minfds=1024",
        },
    )
    supervisor = run(supervisord, "-c", str(config), DATABASE_URL=database, PORT=str(port), SHOPTALK_API_KEYS=KEY)
    api = Api(port)
    eventually(api.answers)
    stream = api.stream("conversation_id=7")
    try:
        sent = api.post("/v1/chats", **CHAT)
        assert stream.chats(1)[0]["chat_id"] == sent["chat_id"]
    finally:
        stream.close()
    control = [find_program("supervisorctl"), "-c", str(config), "-s", f"unix://{socket}"]

    def states() -> list[tuple[str, str]]:
        lines = subprocess.run([*control, "status"], capture_output=True, text=True).stdout.splitlines()
        return sorted((line.split()[0], line.split()[1]) for line in lines)

    names = ["relay", "web", "worker:worker_1", "worker:worker_2"]
    eventually(lambda: states() == [(name, "RUNNING") for name in names])
    pids = [int(subprocess.run([*control, "pid", name], capture_output=True, text=True).stdout) for name in names]
    supervisor.end(seconds=30)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_the_container_has_what_its_processes_need(shop: Connection, database: str, run: Start, tmp_path: Path) -> None:
    """The image itself needs a registry; but what is copied into it is enough, and its entry starts each process."""
    text = (DEPLOY / "Containerfile").read_text()
    final = text[text.rindex("FROM") :]
    for source, target in re.findall(r"^COPY (\S+) (\S+)$", final, re.MULTILINE):
        place = tmp_path / target if not target.startswith("/") else tmp_path / "bin" / Path(target).name
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, place, symlinks=True, ignore=ignored)
        else:
            place = place / source if target == "./" else place
            place.parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / source, place)
    left_out = re.search(r"/\^\(([\w|-]+)\)==/d", text)
    assert left_out is not None
    blocked = tmp_path / "blocked"  # what is not installed there cannot be imported here
    blocked.mkdir()
    for name in left_out.group(1).split("|"):
        assert f"\n{name}==" in (ROOT / "requirements.txt").read_text(), name
        (blocked / f"{name.replace('-', '_')}.py").write_text("raise ImportError('left out')\n")
    entry = tmp_path / "bin" / "start"
    port = free_port()
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(blocked),
        "DATABASE_URL": database,
        "PORT": str(port),
        "SHOPTALK_API_KEYS": KEY,
    }
    for name, says in (("worker", "started"), ("relay", "started"), ("web", "Booting worker")):
        process = run("/bin/sh", "-c", 'cd "$1" && exec "$2" "$3"', "sh", str(tmp_path), str(entry), name, **env)
        process.expect(says)
    api = Api(port)
    eventually(api.answers)
    api.post("/v1/chats", **CHAT)
    eventually(lambda: shop.execute("select count(*) from sent_log").fetchone() == (1,))
    asked = run("/bin/sh", "-c", 'cd "$1" && exec "$2" shoptalk status', "sh", str(tmp_path), str(entry), **env)
    asked.expect("queued")
    assert asked.popen.wait(30) == 0


def test_the_example_settings_are_settings() -> None:
    lines = [line for line in (DEPLOY / "shoptalk.env").read_text().splitlines() if line and line[0] != "#"]
    environ = dict(line.split("=", 1) for line in lines)
    with pytest.raises(BadSetting, match="CHANGE_ME"):  # until somebody has set a key of their own
        Settings.from_environment(environ)
    settings = Settings.from_environment(environ | {"SHOPTALK_API_KEYS": KEY})
    assert settings.pooled
    assert psycopg.conninfo.conninfo_to_dict(settings.database_url)["port"] == "6432"
    assert psycopg.conninfo.conninfo_to_dict(settings.direct_url)["port"] == "5432"
    page = (ROOT / "docs" / "settings.md").read_text()
    assert not {name for name in (line.split("=", 1)[0] for line in lines) if f"`{name}`" not in page}


# Prometheus --------------------------------------------------------------------------------------------


def test_promtool_accepts_the_alerts_and_the_configuration(tmp_path: Path) -> None:
    promtool = find_program("promtool")
    subprocess.run([promtool, "check", "rules", str(DEPLOY / "alerts.yml")], check=True, capture_output=True)
    (tmp_path / "shoptalk.key").write_text(KEY)
    (tmp_path / "shoptalk-alerts.yml").write_text((DEPLOY / "alerts.yml").read_text())
    config = render("prometheus.yml", tmp_path, {"/etc/prometheus/": f"{tmp_path}/"})
    subprocess.run([promtool, "check", "config", str(config)], check=True, capture_output=True)


WAKES = (
    (
        "ShoptalkDatabaseUnreachable",
        {"shoptalk_database_up": "0x20"},
        {"shoptalk_database_up": "1x20"},
    ),
    (
        "ShoptalkNoWorker",
        {"shoptalk_queue_sample_age_seconds": "10+30x20"},
        {"shoptalk_queue_sample_age_seconds": "10x20", "shoptalk_database_up": "1x20"},
    ),
    (
        "ShoptalkNoWorker",
        {"shoptalk_database_up": "1x20"},  # none ever ran, so there is no sample
        {"shoptalk_database_up": "0x20"},  # nor is there one without a database, which has its own alert
    ),
    (
        "ShoptalkQueueStuck",
        {'shoptalk_queue_oldest_seconds{state="queued"}': "61+60x20"},
        {
            'shoptalk_queue_oldest_seconds{state="queued"}': "3x20",
            'shoptalk_queue_oldest_seconds{state="held"}': "9000x20",
        },
    ),
    (
        "ShoptalkErrors",
        {
            'shoptalk_http_request_seconds_count{status="503"}': "0+10x20",
            'shoptalk_http_request_seconds_count{status="200"}': "0+100x20",
        },
        {
            'shoptalk_http_request_seconds_count{status="404"}': "0+10x20",
            'shoptalk_http_request_seconds_count{status="200"}': "0+100x20",
        },
    ),
    (
        "ShoptalkSlowSending",
        {
            'shoptalk_enqueue_to_sent_seconds_bucket{lane="live",le="5.0"}': "0+10x20",
            'shoptalk_enqueue_to_sent_seconds_bucket{lane="live",le="10.0"}': "0+20x20",
            'shoptalk_enqueue_to_sent_seconds_bucket{lane="live",le="+Inf"}': "0+20x20",
        },
        {
            'shoptalk_enqueue_to_sent_seconds_bucket{lane="live",le="5.0"}': "0+20x20",
            'shoptalk_enqueue_to_sent_seconds_bucket{lane="live",le="+Inf"}': "0+20x20",
            'shoptalk_enqueue_to_sent_seconds_bucket{lane="held",le="+Inf"}': "0+20x20",
        },
    ),
)  # fmt: skip


def test_an_alert_wakes_for_what_it_is_there_for_and_for_nothing_else(tmp_path: Path) -> None:
    cases = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                    "eval_time": "15m",
                    "exp_samples": [{"labels": "{}", "value": fires}],
                }
            ],
        }
        for alert, bad, good in WAKES
        for series, fires in ((bad, 1), (good, 0))
    ]
    path = tmp_path / "test.yml"  # JSON is YAML
    path.write_text(
        json.dumps({"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "1m", "tests": cases})
    )
    tested = subprocess.run([find_program("promtool"), "test", "rules", str(path)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
