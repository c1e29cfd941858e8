"""bin/run and bin/psql as commands, on a separate data folder, as the user that runs the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from embedded.psql import _without_password
from tests.support.processes import ROOT, Process, eventually, free_port

pytestmark = pytest.mark.system


class Shoptalk:
    """bin/run on a free port."""

    def __init__(self, data: Path, **others: str) -> None:
        self.port = free_port()
        self.env = {"SHOPTALK_DATA": str(data), "PORT": str(self.port), "SHOPTALK_HOURS": "00:00-00:00"} | others
        self.process = Process([str(ROOT / "bin" / "run")], self.env)

    def call(self, path: str, **fields: object) -> Any:
        data = json.dumps(fields).encode() if fields else None
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def psql(self, statement: str) -> str:
        return psql(self.env, statement)


def psql(env: dict[str, str], statement: str) -> str:
    command = [str(ROOT / "bin" / "psql"), "-Atc", statement]
    return subprocess.run(command, env=os.environ | env, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def data(public_folder: Path) -> Iterator[Path]:
    given = os.environ.pop("DATABASE_URL", None)
    yield public_folder / "data"
    if given is not None:
        os.environ["DATABASE_URL"] = given


def test_run_serves_stops_cleanly_and_restarts_with_the_same_data(data: Path) -> None:
    shoptalk = Shoptalk(data)
    try:
        line = shoptalk.process.expect("Shoptalk is ready")
        assert f"http://127.0.0.1:{shoptalk.port}" in line
        shoptalk.call("/app/addClient/", client_id=1, username="Ann", location="Oslo")
        shoptalk.call("/app/addOperator/", operator_id=1, operator_name="O", operator_group="g", store_id=1)
        shoptalk.call("/app/startChat/", conversation_id=7, client_id=1, opertor_id=1, payload="hi")
        eventually(lambda: shoptalk.call("/app/getConversation/7/")["conversation"]["chat"][0]["state"] == "sent")
        assert shoptalk.psql("select state, chats from queue_status where chats > 0") == "sent|1"
        family = psutil.Process(shoptalk.process.popen.pid).children(recursive=True)
        assert any("postgres" in child.name() for child in family)
    finally:
        status = shoptalk.process.end(signal.SIGINT, seconds=60)
    assert status == 0
    assert not psutil.wait_procs(family, timeout=10)[1]

    assert psql(shoptalk.env, "select count(*) from chats") == "1"  # starts the server itself
    again = Shoptalk(data)
    try:
        again.process.expect("Shoptalk is ready")
        assert len(again.call("/app/getConversation/7/")["conversation"]["chat"]) == 1
    finally:
        assert again.process.end(signal.SIGTERM, seconds=60) == 0


def test_a_killed_run_leaves_no_server_behind_and_its_data_intact(data: Path) -> None:
    shoptalk = Shoptalk(data)
    shoptalk.process.expect("Shoptalk is ready")
    family = psutil.Process(shoptalk.process.popen.pid).children(recursive=True)
    shoptalk.process.end(signal.SIGKILL)
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert psql(shoptalk.env, "select count(*) from chats") == "0"


def test_a_killed_honcho_ends_everything(data: Path) -> None:
    shoptalk = Shoptalk(data)
    shoptalk.process.expect("Shoptalk is ready")
    family = psutil.Process(shoptalk.process.popen.pid).children(recursive=True)
    (honcho,) = [
        child for child in family if child.ppid() == shoptalk.process.popen.pid and "honcho" in child.cmdline()
    ]
    honcho.kill()
    assert shoptalk.process.popen.wait(15) != 0
    assert not psutil.wait_procs(family, timeout=20)[1]
    shoptalk.process.end()


def test_variables_for_another_server_are_ignored(data: Path) -> None:
    shoptalk = Shoptalk(data, PGSSLMODE="verify-full", PGHOSTADDR="192.0.2.1", PGSERVICE="none", PGOPTIONS="-c x=y")
    try:
        shoptalk.process.expect("Shoptalk is ready")
        assert shoptalk.psql("select 1") == "1"
    finally:
        assert shoptalk.process.end() == 0


def test_psql_gets_the_password_by_its_environment_and_not_by_its_arguments() -> None:
    conninfo, password = _without_password("postgresql://olga:s%2Fcret@db.example:5433/shop?sslmode=require")
    assert conninfo_to_dict(conninfo) == {
        "user": "olga", "host": "db.example", "port": "5433", "dbname": "shop", "sslmode": "require",
    }  # fmt: skip
    assert password == {"PGPASSWORD": "s/cret"}
    assert _without_password("dbname=shop") == ("dbname=shop", {})


def test_a_second_run_on_the_same_folder_or_port_says_so(data: Path) -> None:
    shoptalk = Shoptalk(data)
    try:
        shoptalk.process.expect("Shoptalk is ready")
        same_port = Process([str(ROOT / "bin" / "run")], shoptalk.env)
        same_port.expect("set HOST and PORT")
        assert same_port.popen.wait(10) == 1
        same_folder = Shoptalk(data)
        same_folder.process.expect("already running")
        assert same_folder.process.popen.wait(10) == 1
        for process in (same_port, same_folder.process):
            process.end()
    finally:
        shoptalk.process.end()


def test_the_server_requires_the_password(data: Path) -> None:
    shoptalk = Shoptalk(data)
    try:
        shoptalk.process.expect("Shoptalk is ready")
        port = (data / "port").read_text()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(host="127.0.0.1", port=port, user="shoptalk", password="wrong")
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(host="127.0.0.1", port=port, user="shoptalk")
        assert (data / "password").stat().st_mode & 0o077 == 0
    finally:
        shoptalk.process.end()
