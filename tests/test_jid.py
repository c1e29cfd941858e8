"""XMPP addresses: what REST and SQL accept, and the normalized form that is stored."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from slixmpp.jid import JID, InvalidJID

from sql.jid import BadJid, bare_jid
from tests.support.db import Connection


@pytest.mark.parametrize("path", ["/app/addClient/", "/v1/operators"])
def test_people_have_an_address_if_they_like(client: FlaskClient, path: str) -> None:
    person: dict[str, Any] = {"client_id": 1, "username": "Ann", "location": "Oslo"}
    if "perators" in path:
        person = {"operator_id": 1, "operator_name": "Olga", "operator_group": "day", "store_id": 1}
    for bad in ("ann", "ann@", "@example.org", "ann@example.org/phone", "a b@example.org", "ann@ex ample.org", "a@b@c",
                "ann@-x.org", "ann@x..org", "ann@example.org" + "x" * 3000, "", 7, "a\x00b@x.org"):  # fmt: skip
        answer = client.post(path, json=person | {"xmpp_jid": bad})
        assert answer.status_code == 400, bad
        assert [error["field"] for error in answer.get_json(force=True)["errors"]] == ["xmpp_jid"], bad
    with_jid = person | {"xmpp_jid": "ann@example.org"}
    first = client.post(path, json=person | {"xmpp_jid": "Ann@EXAMPLE.org."})
    assert (first.status_code in (200, 201), first.get_json()) == (True, with_jid)
    again = client.post(path, json=person)  # who does not say it does not change it
    assert (again.status_code, again.get_json()) == (200, with_jid)
    other = client.post(path, json=person | {"xmpp_jid": "other@example.org"})
    assert other.status_code == 409
    without = {key: 2 if key.endswith("_id") else value for key, value in person.items()}
    assert client.post(path, json=without).get_json() == without  # as the brief has it


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ANN@Example.ORG", "ann@example.org"),
        ("straße@münchen.example", "strasse@münchen.example"),
        ("ann@xn--mnchen-3ya.example", "ann@münchen.example"),
        ("\uff21nn@example\u3002org", "ann@example.org"),
        ("o'hara@example.org", None),
        ("a\u2028b@example.org", None),
        ("\u05d0a@example.org", None),  # both directions in one name
        ("ann@xn--\u00fc.org", None),
        ("a" * 1024 + "@example.org", None),
        ("\u0430nn@example.org", "\u0430nn@example.org"),  # Cyrillic: somebody else, who looks alike
    ],
)
def test_addresses_are_kept_as_servers_compare_them(text: str, kept: str | None) -> None:
    if kept is None:
        with pytest.raises(BadJid):
            bare_jid(text)
    else:
        assert bare_jid(text) == bare_jid(kept) == kept


def test_an_address_set_in_sql_is_checked_too(shop: Connection) -> None:
    for bad in ("Ann@example.org", "ann@example.org/phone", "ann", "a@b@c"):
        with pytest.raises(psycopg.errors.CheckViolation):
            shop.execute("update clients set xmpp_jid = %s", [bad])


@given(st.text(min_size=1, max_size=20), st.text("abcÄßµ\u0661ⅷ.-", min_size=1, max_size=10))
def test_another_implementation_keeps_the_same_form(name: str, host: str) -> None:
    try:
        kept = bare_jid(f"{name}@{host}")
    except BadJid:
        return
    assert bare_jid(kept) == kept
    try:
        assert JID(f"{name}@{host.removesuffix('.')}").bare == kept
    except InvalidJID:
        pass  # it is stricter here and there
