"""A short run of the fuzzer, and a test of the fuzzer itself; the long run is `python -m tests.support.fuzz`."""

from __future__ import annotations

import pytest

from tests.support.db import Connection
from tests.support.fuzz import Maker, furnish, fuzz, tokens
from tests.support.processes import Start
from tests.support.web import Web

pytestmark = pytest.mark.system


@pytest.mark.timeout(400)
def test_no_request_is_answered_with_a_5xx(
    start: Start, database: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KEY", "TOKEN", "ADDRESS"):
        monkeypatch.setenv(f"SHOPTALK_{name}_PER_MINUTE", "0")
    credentials = furnish(db)
    web = Web(start, database)
    counts, bad = fuzz(web.port, credentials + tokens(web.port, credentials[0]), requests=1200, seed=1, threads=2)
    assert not bad
    assert not [line for line in web.process.lines if "Traceback" in line]
    assert counts.total() == 1200
    # It gets through to the views, and is not stopped at the door.
    assert {200, 400, 401, 403, 404, 405, 415} <= counts.keys()
    assert counts[200] > 50


def test_the_same_seed_makes_the_same_requests() -> None:
    paths = {"/v1/chats": {"post": {}}, "/v1/chats/{chat_id}": {"get": {}}}
    first, again, other = (Maker(seed, paths, ["key"]) for seed in (1, 1, 2))
    made = [[maker.make() for _ in range(50)] for maker in (first, again, other)]
    assert made[0] == made[1] != made[2]
