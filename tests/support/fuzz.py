"""A fuzzer over paths, queries, bodies and headers, against a real web process: no answer may be a 5xx.

`.venv/bin/python -m tests.support.fuzz --requests 50000 --seed 1` makes a server of its own; the suite has a short run.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import random
import re
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from embedded.cluster import Cluster
from sql.install import prepare
from tests.support.api import BODIES
from tests.support.db import make_key
from tests.support.processes import Process
from tests.support.web import Web

TEXTS = [
    "", " ", "0", "-1", "1", "7", "2147483647", "2147483648", "9007199254740993", "9" * 400, "1e3", "0x7", "1.0", "NaN",
    "1\n", "1\u2003", "null", "true", "x" * 300, "é" * 299, "\u202e{{ username }}", "{{ operator }}" * 20,
    "\x00", "\ud800", "%00", "../..",
    "' or 1=1 --", "';select pg_sleep(1)", "²", "٣", "\n", "\r\nX: y", "\\", "\x1b[2J", "<script>", "start", "client",
    "operator", "infinity", "-infinity", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59", "Europe/Berlin", "mon",
]  # fmt: skip
OTHERS = [
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    1.5,
    1e308,
    2**31,
    2**53,
    2**63,
    10**400,
    [],
    {},
    [[]],
    {"a": {"b": [None]}},
    [1] * 1001,
]
TYPES = [
    "application/json", "application/json; charset=utf-7", "application/x-www-form-urlencoded", "text/plain", "",
    "multipart/form-data; boundary=x", "multipart/form-data", "application/json, text/html", "a/b/c;;;=",
]  # fmt: skip
STREAM = ["conversation_id", "client_id", "operator_id", "store_id", "from", "as", "last_event_id"]
QUERIES = ["after", "limit", "before", "at", "history", "dry_run", "x", *STREAM]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND"]


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None


class Maker:
    """Makes requests, the same ones for the same seed."""

    def __init__(self, seed: int, paths: dict[str, Any], credentials: list[str]) -> None:
        self.random = random.Random(seed)
        self.credentials = credentials
        self.operations = [(method.upper(), path) for path, verbs in paths.items() for method in verbs]
        self.operations += [("GET", "/v1/stream")] * 8
        self.bodies = {(method, re.sub("<(.*?)>", r"{\1}", rule)): body for (method, rule), body in BODIES.items()}

    def make(self) -> Asked:
        method, template = self.random.choice(self.operations)
        if self.random.random() < 0.05:
            method = self.random.choice(METHODS)
        path = re.sub(
            r"{(\w+)}", lambda _: self._quoted(self.random.choice(["1", "7", "70", "crm", self._text()])), template
        )
        names = STREAM if template == "/v1/stream" else QUERIES
        pairs = [(self.random.choice(names), self._text()) for _ in range(self.random.choice([0, 0, 1, 1, 2, 4]))]
        if template == "/v1/stream" and self.random.random() < 0.7:
            pairs.insert(0, (self.random.choice(STREAM[:4]), self.random.choice("17")))
        query = "&".join(f"{name}={self._quoted(value)}" for name, value in pairs)
        headers, body = self._headers(), None
        if method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
            headers["Content-Type"], body = self._body(self.bodies.get((method, template), {}))
        return Asked(method, path + (f"?{query}" if query else ""), headers, body)

    def _headers(self) -> dict[str, str]:
        headers = {}
        if self.random.random() < 0.97:
            headers["Authorization"] = f"Bearer {self.random.choice(self.credentials)}"
        if self.random.random() < 0.2:
            headers["Last-Event-ID"] = re.sub(r"[^\x20-\x7e]", "", self._text())
        if self.random.random() < 0.1:
            name = self.random.choice(
                ["Accept", "If-None-Match", "Origin", "X-Forwarded-For", "Range", "Authorization"]
            )
            headers[name] = re.sub(r"[^\x20-\x7e]", "", self._text())
        return headers

    def _body(self, good: Any) -> tuple[str, bytes]:
        value = self._changed(good) if self.random.random() < 0.85 else self.random.choice([*OTHERS, *TEXTS])
        if isinstance(good, dict) and "payload" in good and self.random.random() < 0.1:
            value = [self._changed(good) for _ in range(self.random.choice([0, 1, 3, 30]))]
        kind = self.random.choice(TYPES) if self.random.random() < 0.2 else TYPES[0]
        if "form-urlencoded" in kind and isinstance(value, dict):
            text = "&".join(f"{self._quoted(str(k))}={self._quoted(str(v))}" for k, v in value.items())
        else:
            text = json.dumps(value)
        data = text.encode(errors="surrogatepass")
        if self.random.random() < 0.05:
            place = self.random.randrange(len(data) + 1)
            data = data[:place] + self.random.randbytes(self.random.choice([0, 1, 9])) + data[place + 1 :]
        return kind, data

    def _changed(self, good: Any, depth: int = 0) -> Any:
        """The same with some of its parts replaced, dropped, added."""
        if self.random.random() < 0.15 * depth:
            return self.random.choice([*OTHERS, *TEXTS])
        if isinstance(good, dict):
            changed = {name: self._changed(part, depth + 1) for name, part in good.items()}
            if changed and self.random.random() < 0.15:
                del changed[self.random.choice(list(changed))]
            if self.random.random() < 0.3:
                extra = [
                    "chat_id",
                    "conversation_id",
                    "sender",
                    "urgent",
                    "opertor_id",
                    "ttl_seconds",
                    "as",
                    self._text(),
                ]
                changed[self.random.choice(extra)] = self.random.choice([*OTHERS, *TEXTS])
            return changed
        if isinstance(good, list):
            return [self._changed(part, depth + 1) for part in good] * self.random.choice([1, 1, 1, 0, 2])
        return good

    def _text(self) -> str:
        if self.random.random() < 0.7:
            return self.random.choice(TEXTS)
        return "".join(chr(self.random.randrange(1, 0x2FF)) for _ in range(self.random.randrange(1, 20)))

    @staticmethod
    def _quoted(text: str) -> str:
        return urllib.parse.quote(text.encode(errors="surrogatepass"), safe="")


def ask(port: int, asked: list[Asked]) -> Iterator[tuple[Asked, int, bytes]]:
    """Asks one after the other over connections that are kept while they can be; (request, status, body) each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for request in asked:
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            answer = connection.getresponse()
            endless = "event-stream" in (answer.getheader("Content-Type") or "")
            yield request, answer.status, b"" if endless else answer.read()
            if endless or answer.will_close:
                answer.close()
                connection.close()
        except (http.client.HTTPException, OSError) as error:
            yield request, 599, repr(error).encode()  # no answer at all
            connection.close()
    connection.close()


def fuzz(
    port: int, credentials: list[str], requests: int, seed: int, threads: int = 4
) -> tuple[collections.Counter[int], list[Any]]:
    """How often each status came, and the requests that were answered 5xx, with the answers."""
    head = {"Authorization": f"Bearer {credentials[0]}"}
    (_, _, document), *_ = ask(port, [Asked("GET", "/openapi.json", head, None)])
    counts: collections.Counter[int] = collections.Counter()
    bad: list[Any] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        maker = Maker(seed * 1000 + number, json.loads(document)["paths"], credentials)
        for request, status, body in ask(port, [maker.make() for _ in range(requests // threads)]):
            with lock:
                counts[status] += 1
                if status >= 500:
                    bad.append((request, status, body[:500]))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return counts, bad


def furnish(db: psycopg.Connection[Any]) -> list[str]:
    """A shop to ask about, and credentials of all kinds for it."""
    db.execute("select add_store(1, 'UTC', '00:00', '00:00'), add_store(2, 'UTC', '09:00', '14:00')")
    db.execute("insert into clients values (1, 'Ann', 'Oslo'), (7, 'Ben', 'Rome')")
    db.execute("insert into operators values (1, 'Olga', 'day', 1), (7, 'Otto', 'night', 2)")
    for conversation, party in ((1, 1), (7, 7)):
        db.execute("select enqueue_chat(%s, %s, %s, 'hello', 'client', %s)", [conversation, party, party, conversation])
    return [make_key(db, "all"), make_key(db, "one", store_id=1)]


def main() -> None:
    """Fuzzes a server of its own, and says what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    started: list[Process] = []

    def start(*command: str, **env: str) -> Process:
        limits = {f"SHOPTALK_{name}_PER_MINUTE": "0" for name in ("KEY", "TOKEN", "ADDRESS")}
        started.append(Process([sys.executable, "-m", *command], env | limits))
        return started[-1]

    with Cluster(folder) as cluster:
        prepare(cluster.url)
        with psycopg.connect(cluster.url, autocommit=True) as db:
            credentials = furnish(db)
        begun = time.monotonic()
        try:
            web = Web(start, cluster.url)
            start("worker", DATABASE_URL=cluster.url)
            counts, bad = fuzz(web.port, credentials + tokens(web.port, credentials[0]), options.requests, options.seed)
        finally:
            for process in started:
                process.end()
        print(
            f"{counts.total()} requests in {time.monotonic() - begun:.0f} s, by status: {dict(sorted(counts.items()))}"
        )
        for request, status, body in bad[:20]:
            print(status, request, body)
        tracebacks = [line for process in started for line in process.lines if "Traceback" in line]
        print(f"{len(bad)} answers were 5xx, {len(tracebacks)} tracebacks in the logs")
        sys.exit(bool(bad or tracebacks))


def tokens(port: int, key: str) -> list[str]:
    """Tokens of each kind."""
    wanted = [{"client_id": 1}, {"operator_id": 1}, {"conversation_id": 7}, {"conversation_id": 7, "as": "operator"}]
    head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    asked = [Asked("POST", "/v1/tokens", head, json.dumps(of).encode()) for of in wanted]
    return [json.loads(body)["token"] for _, _, body in ask(port, asked)]


if __name__ == "__main__":
    main()
