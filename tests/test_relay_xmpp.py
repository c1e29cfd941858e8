"""XMPP: a real relay process as a component of a real prosody, and users on it with an ordinary client."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.push.signals import Signal
from sql.settings import BadSetting, Settings, XmppComponent
from tests.support.db import AsRole, Connection, clock, count, enqueue
from tests.support.processes import ROOT, Process, Start, eventually
from tests.support.xmpp import COMPONENT, SECRET, Cutter, Prosody, User

pytestmark = pytest.mark.system

Join = Callable[[str], User]
REQUEST = ("{urn:xmpp:receipts}request", {})


@pytest.fixture
def prosody(public_folder: Path, request: pytest.FixtureRequest) -> Iterator[Prosody]:
    """The server. A parameter adds lines to its configuration."""
    server = Prosody(public_folder, getattr(request, "param", ""))
    server.start()
    yield server
    server.process.end()


@pytest.fixture
def join(prosody: Prosody) -> Iterator[Join]:
    """Logs a user in."""
    users: list[User] = []

    def join(jid: str) -> User:
        users.append(User(prosody, jid))
        return users[-1]

    yield join
    for user in users:
        user.close()


@pytest.fixture
def people(shop: Connection) -> Connection:
    """Ann and Olga have XMPP addresses; Ben and Otto do not."""
    shop.execute("update clients set xmpp_jid = 'ann@localhost' where client_id = 1")
    shop.execute("update operators set xmpp_jid = 'olga@localhost' where operator_id = 1")
    return shop


def relay(start: Start, database: str, setting: str, until: str = f"connected component={COMPONENT}") -> Process:
    process = start("relay", DATABASE_URL=database, XMPP_COMPONENT=setting)
    process.expect(until)
    return process


def send_all(db: Connection) -> None:
    while db.execute("select sent from send_chats(500)").fetchone()[0]:  # type: ignore[index]
        pass


def chats(db: Connection, each: int, conversations: int = 5) -> dict[int, int]:
    """Sends this many chats from the client of each conversation, with their seq as text. Returns the last seqs."""
    db.execute(
        "select enqueue_chat(c, 1, 1, (coalesce((select last_seq from conversations where conversation_id = c), 0) + g)"
        "::text, 'client') from (select c, g from generate_series(1, %s) g, generate_series(101, 100 + %s) c) n",
        [each, conversations],
    )
    send_all(db)
    rows = db.execute("select conversation_id, last_seq from conversations").fetchall()
    return {int(conversation): int(last) for conversation, last in rows}


def payloads(db: Connection, conversation: int = 7) -> list[tuple[str, str]]:
    rows = db.execute("select sender, payload from chats where conversation_id = %s order by seq", [conversation])
    return [(sender, payload) for sender, payload in rows]


def cursor(db: Connection) -> int:
    return int(db.execute("select cursor from channels where kind = 'xmpp'").fetchone()[0])  # type: ignore[index]


def dead_letters(client: FlaskClient) -> list[dict[str, Any]]:
    return list(client.get("/v1/channels/xmpp/dead-letters").get_json()["dead_letters"])


def test_chats_go_both_ways_with_receipts_and_delivered_marks(
    people: Connection,
    client: FlaskClient,
    as_role: AsRole,
    start: Start,
    prosody: Prosody,
    join: Join,
) -> None:
    ann, olga = join("ann@localhost"), join("olga@localhost")
    people.execute("listen chat_event")
    relay(start, as_role("relay"), prosody.setting())
    first = enqueue(people, 7, "Hello <&> 你好 😀")
    enqueue(people, 8, "not for you", client=2)  # Ben's: Olga gets it, Otto and Ben have no address
    send_all(people)
    eventually(lambda: len(olga.got) == 2)
    message = olga.got[0]
    assert (message["from"].bare, message["to"].bare) == (f"conversation-7@{COMPONENT}", "olga@localhost")
    assert (message["type"], message["id"], message["body"]) == ("chat", str(first.chat_id), "Hello <&> 你好 😀")
    assert message.xml.find("{urn:xmpp:delay}delay") is None
    olga.send(7, "Good {{ operator }}", REQUEST, id="answer-1")
    eventually(lambda: olga.receipts == ["answer-1"])
    assert payloads(people) == [("client", "Hello <&> 你好 😀"), ("operator", "Good Olga")]
    send_all(people)
    eventually(lambda: ann.bodies() == ["Good Olga"])
    ann.send(7, "Thanks")
    eventually(lambda: len(payloads(people)) == 3)
    send_all(people)
    eventually(lambda: olga.bodies()[2:] == ["Thanks"])

    def marks() -> Any:
        return client.get("/v1/conversations/7").get_json()["delivered"]

    eventually(lambda: marks() == {"client": 2, "operator": 3})
    assert not olga.errors + ann.errors
    signals = [Signal.parse(note.payload) for note in people.notifies(timeout=10, stop_after=4)]
    assert {"conversation_id": 7, "party": "operator", "seq": 1} in [signal.data for signal in signals]
    assert {signal.event for signal in signals} == {"delivered"}
    assert {"conversation_id": 7, "client_id": 1, "operator_id": 1, "store_id": 1} in [signal.to for signal in signals]


def test_a_chat_that_was_held_has_the_time_at_which_it_was_written(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    people.execute("update operators set xmpp_jid = 'olga@localhost' where operator_id = 2")
    olga = join("olga@localhost")
    relay(start, database, prosody.setting())
    clock(people, "2026-03-02 03:04:05")
    enqueue(people, 9, "at night", client=2, operator=2)
    clock(people, "2026-03-02 09:00:00")
    send_all(people)
    people.execute("reset shoptalk.now")
    eventually(lambda: len(olga.got) == 1)
    delay = olga.got[0].xml.find("{urn:xmpp:delay}delay")
    assert delay is not None
    assert dict(delay.attrib) == {"from": f"conversation-9@{COMPONENT}", "stamp": "2026-03-02T03:04:05.000000Z"}


def test_an_unacceptable_message_gets_a_stanza_error_and_is_not_stored(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    ann, mallory = join("ann@localhost"), join("mallory@localhost")
    enqueue(people, 7, "Hello")
    enqueue(people, 8, "Hello", client=2)  # Ben's, not Ann's
    relay(start, database, prosody.setting())
    encrypted = ("{eu.siacs.conversations.axolotl}encrypted", {})
    group = f"conversation-7@{COMPONENT}"
    sent: list[tuple[User, tuple[Any, ...], dict[str, str], str]] = [
        (mallory, (7, "let me in"), {}, "auth forbidden"),
        (mallory, (99, "is there one?"), {}, "auth forbidden"),
        (ann, (8, "not mine"), {}, "auth forbidden"),
        (ann, (7, "x" * 300), {}, "modify not-acceptable"),
        (ann, (7, "secret", encrypted), {}, "modify not-acceptable"),
        (ann, (group, "all of you"), {"type": "groupchat"}, "cancel feature-not-implemented"),
        (ann, (f"conversation-07@{COMPONENT}", "hm"), {}, "cancel item-not-found"),
        (ann, (f"support@{COMPONENT}", "hm"), {}, "cancel item-not-found"),
        (ann, (COMPONENT, "hm"), {}, "cancel item-not-found"),
        (ann, (f"conversation-99999999999@{COMPONENT}", "hm"), {}, "cancel item-not-found"),
    ]
    for index, (user, arguments, attributes, _) in enumerate(sent):
        user.send(*arguments, **{"id": f"try-{index}"} | attributes)
    eventually(lambda: len(ann.errors + mallory.errors) == len(sent))
    answers = {error["id"]: error for error in ann.errors + mallory.errors}
    for index, (_, (to, *_), _, wanted) in enumerate(sent):
        error = answers[f"try-{index}"]
        assert f"{error['error']['type']} {error['error']['condition']}" == wanted
        assert error["error"]["text"]
        assert error["from"].bare == (to if isinstance(to, str) else f"conversation-{to}@{COMPONENT}")
    assert answers["try-3"]["error"]["text"] == "String should have at most 299 characters"
    ann.send(7, None, ("{http://jabber.org/protocol/chatstates}composing", {}))  # neither a chat nor an error
    ann.send(7, "fine")
    eventually(lambda: payloads(people) == [("client", "Hello"), ("client", "fine")])
    assert count(people, "chats") == 3
    assert len(ann.errors + mallory.errors) == len(sent)


def test_a_message_that_is_sent_again_is_not_doubled(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    ann = join("ann@localhost")
    enqueue(people, 7, "Hello")
    relay(start, database, prosody.setting())
    origin = ("{urn:xmpp:sid:0}origin-id", {"id": "o-1"})
    for stanza_id in ("a", "b", "c"):
        ann.send(7, "once", origin, REQUEST, id=stanza_id)
    for _ in range(3):
        ann.send(7, "only once", REQUEST, id="d")
    eventually(lambda: len(ann.receipts) == 6)
    assert payloads(people)[1:] == [("client", "once"), ("client", "only once")]
    # A stanza's id is unique within its stream only: with another text it is another message.
    ann.send(7, "another", REQUEST, id="d")
    eventually(lambda: len(ann.receipts) == 7)
    assert payloads(people)[3:] == [("client", "another")]
    people.execute("update inbound_messages set received_at = received_at - interval '8 days'")
    people.execute("select prune_channels()")
    assert count(people, "inbound_messages") == 0


def test_a_message_that_finds_the_database_busy_is_asked_to_retry(
    people: Connection, connect: Callable[[], Connection], database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    ann = join("ann@localhost")
    enqueue(people, 7, "Hello")
    relay(start, database, prosody.setting())
    other = connect()
    with other.transaction():
        other.execute("select from conversations for update")
        ann.send(7, "now", id="x")
        eventually(lambda: len(ann.errors) == 1)
        error = ann.errors[0]["error"]
        assert (error["type"], error["condition"]) == ("wait", "resource-constraint")
    ann.send(7, "now", REQUEST, id="x")
    eventually(lambda: ann.receipts == ["x"])
    assert payloads(people)[1:] == [("client", "now")]


def test_a_chat_that_bounces_is_a_dead_letter_and_the_rest_continues(
    people: Connection, client: FlaskClient, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    olga, mallory = join("olga@localhost"), join("mallory@localhost")
    people.execute("update operators set xmpp_jid = 'gone@localhost', operator_name = 'Otto' where operator_id = 2")
    relay(start, database, prosody.setting())
    people.execute("select add_store(3, 'UTC', '00:00', '00:00')")
    people.execute("insert into operators values (3, 'Oda', 'x', 3, 'gone@localhost')")
    one, lost, two = enqueue(people, 7, "1"), enqueue(people, 9, "lost", operator=3), enqueue(people, 7, "2")
    send_all(people)
    eventually(lambda: len(olga.got) == 2)
    eventually(lambda: len(dead_letters(client)) == 1)
    (dead_letter,) = dead_letters(client)
    assert dead_letter["chat_id"] == lost.chat_id
    assert dead_letter["reason"].startswith("bounced: service-unavailable")
    assert client.get("/v1/channels/xmpp").get_json()["state"] == "active"
    people.execute("update operators set xmpp_jid = 'mallory@localhost' where operator_id = 3")
    assert client.post(f"/v1/channels/xmpp/dead-letters/{lost.chat_id}/requeue").status_code == 200
    eventually(lambda: mallory.bodies() == ["lost"])
    eventually(lambda: not dead_letters(client))
    # A bounce long after the chat was settled: it counts only from the address that the chat was sent to.
    error = ("{jabber:client}error", {"type": "cancel"})
    eventually(lambda: cursor(people) == 3)
    mallory.send(7, None, error, type="error", id=str(two.chat_id))
    mallory.send(7, "and then")
    eventually(lambda: len(mallory.errors) == 1)  # so the relay has handled both
    olga.send(7, None, error, type="error", id=str(one.chat_id))
    eventually(lambda: bool(dead_letters(client)) and dead_letters(client)[0]["chat_id"] == one.chat_id)
    assert len(dead_letters(client)) == 1


def test_a_chat_that_bounces_temporarily_is_sent_again_for_three_days(shop: Connection) -> None:
    shop.execute("select open_system_channel('xmpp'); update operators set xmpp_jid = 'olga@localhost'")
    chat = enqueue(shop)
    send_all(shop)
    shop.execute("update channels set cursor = 1")

    def is_requeued_after_bounce() -> bool:
        shop.execute("select record_bounce(7, %s, 'olga@localhost', 'wait', 300)", [chat.chat_id])
        row = shop.execute("delete from channel_dead_letters returning requeue_at is not null").fetchone()
        assert row is not None
        return bool(row[0])

    assert is_requeued_after_bounce()
    shop.execute("select set_config('shoptalk.now', (now() + interval '3 days')::text, false)")
    assert not is_requeued_after_bounce()


@pytest.mark.parametrize("prosody", ["component_stanza_size_limit = 4000"], indirect=True)
def test_only_the_chat_for_which_the_server_ends_the_stream_is_given_up(
    people: Connection, client: FlaskClient, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    olga = join("olga@localhost")
    people.execute("update operators set operator_name = repeat('&', 100) where operator_id = 1")
    ids = [enqueue(people, 7, text).chat_id for text in ("1", "2", "{{operator}}" * 24, "4", "5")]
    relay(start, database, prosody.setting())
    send_all(people)
    eventually(lambda: len({message["id"] for message in olga.got}) == 4)
    assert list(dict.fromkeys(olga.bodies())) == ["1", "2", "4", "5"]
    eventually(lambda: [f["chat_id"] for f in dead_letters(client)] == [ids[2]])
    assert "not-well-formed" in dead_letters(client)[0]["reason"]


def test_characters_that_xml_cannot_carry_are_replaced(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    olga = join("olga@localhost")
    relay(start, database, prosody.setting())
    enqueue(people, 7, "a\x01b\x0cc\x1b[0m\ufffe\uffff]]>\t\n\x85\x7f\U0001f600\U0010ffff")
    enqueue(people, 7, "<body/>&lt;")
    send_all(people)
    eventually(lambda: len(olga.got) == 2)
    assert olga.bodies() == ["a\ufffdb\ufffdc\ufffd[0m\ufffd\ufffd]]>\t\n\x85\x7f\U0001f600\U0010ffff", "<body/>&lt;"]


def test_an_address_in_any_spelling_and_alphabet_is_one_person(
    people: Connection, client: FlaskClient, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    added = client.post(
        "/app/addClient/",
        data={"client_id": 5, "username": "Jürgen", "location": "x", "xmpp_jid": "JU\u0308RGEN@LocalHost"},
    )
    assert added.get_json()["xmpp_jid"] == "jürgen@localhost"
    person = join("jürgen@localhost")
    enqueue(people, 7, "Hello", client=5)
    relay(start, database, prosody.setting())
    enqueue(people, 7, "Guten Tag", client=5, sender="operator")
    send_all(people)
    eventually(lambda: person.bodies() == ["Guten Tag"])
    person.send(7, "Grüezi", REQUEST, id="g")
    eventually(lambda: person.receipts == ["g"])
    assert payloads(people)[-1] == ("client", "Grüezi")


def test_a_user_with_two_devices_gets_each_chat_on_both_and_sends_it_once(
    people: Connection, client: FlaskClient, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    phone, desk = join("olga@localhost/phone"), join("olga@localhost/desk")
    relay(start, database, prosody.setting())
    enqueue(people, 7, "1")
    send_all(people)
    eventually(lambda: phone.bodies() == ["1"] and desk.bodies() == ["1"])
    phone.send(7, "from my phone", REQUEST, id="p")
    eventually(lambda: phone.receipts == ["p"] and desk.carbons == ["from my phone"])
    assert payloads(people) == [("client", "1"), ("operator", "from my phone")]
    eventually(lambda: client.get("/v1/conversations/7").get_json()["delivered"]["operator"] == 1)


def test_a_server_killed_and_started_again_loses_nothing(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    relay(start, database, prosody.setting())
    conversations = chats(people, 100)
    for reached in (50, 200):
        eventually(lambda reached=reached: cursor(people) > reached)  # type: ignore[misc]
        prosody.kill()
        prosody.start()
    eventually(lambda: cursor(people) == 500)
    olga = join("olga@localhost")  # the server has kept them for her
    eventually(lambda: olga.has_all(conversations))
    olga.check(conversations)


def test_a_connection_cut_in_the_middle_of_a_batch_loses_nothing(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    olga = join("olga@localhost")
    cutter = Cutter(prosody.port, [9000, 9973, 7001, 2311, 12007])
    relay(start, database, prosody.setting(cutter.port))
    conversations = chats(people, 40)
    eventually(lambda: olga.has_all(conversations))
    olga.check(conversations)
    assert len(olga.got) > 200, "no connection was cut in the middle of a batch"
    eventually(lambda: cursor(people) == 200)
    assert not cutter.cuts
    cutter.close()


def owner(db: Connection, relays: list[Process]) -> Process:
    """The relay that has the channel's lease."""

    def pid() -> int:
        row = db.execute("select leased_by from channels where kind = 'xmpp'").fetchone()
        return int(row[0].rpartition(":")[2]) if row and row[0] else 0

    eventually(lambda: any(r.popen.pid == pid() for r in relays))
    return next(r for r in relays if r.popen.pid == pid())


def test_a_message_repeated_until_its_receipt_is_one_chat_though_the_relay_is_killed(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    ann = join("ann@localhost")
    enqueue(people, 7, "0")
    first = relay(start, database, prosody.setting())
    texts = [str(n) for n in range(1, 201)]

    def send_those_without() -> None:
        for text in texts:
            if text not in ann.receipts:
                ann.send(7, text, REQUEST, id=text)

    send_those_without()
    eventually(lambda: len(ann.receipts) > 10)
    first.popen.kill()
    relay(start, database, prosody.setting())
    send_those_without()
    eventually(lambda: set(ann.receipts) == set(texts))
    assert sorted(payload for _, payload in payloads(people)[1:]) == sorted(texts)


@pytest.mark.parametrize("prosody", ['component_conflict_resolve = "kick_old"'], indirect=True)
def test_of_two_relays_one_is_connected_and_when_it_is_killed_or_stopped_the_other_takes_over(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    olga = join("olga@localhost")
    relays = [relay(start, database, prosody.setting()), relay(start, database, prosody.setting(), "started")]
    for turn, how in enumerate((signal.SIGKILL, signal.SIGSTOP)):
        conversations = chats(people, 80)
        eventually(lambda turn=turn: cursor(people) > 400 * turn + 50)  # type: ignore[misc]
        victim = owner(people, relays)
        victim.popen.send_signal(how)
        eventually(lambda c=conversations: olga.has_all(c))  # type: ignore[misc]
        olga.check(conversations)
        if how == signal.SIGKILL:
            relays[relays.index(victim)] = relay(start, database, prosody.setting(), "started")
        else:
            victim.popen.send_signal(signal.SIGCONT)
    conversations = chats(people, 1)
    eventually(lambda: olga.has_all(conversations))
    olga.check(conversations)


def test_a_relay_that_is_stopped_returns_its_lease_and_ends_its_stream(
    people: Connection, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    first = relay(start, database, prosody.setting())
    assert first.end() == 0
    assert people.execute("select leased_by from channels").fetchone() == (None,)
    second = relay(
        start, database, prosody.setting()
    )  # connects at once: the lease is free, and the server has closed the first connection
    olga = join("olga@localhost")
    enqueue(people, 7, "1")
    send_all(people)
    eventually(lambda: olga.bodies() == ["1"])
    assert not [line for line in first.lines + second.lines if "WARNING" in line or "ERROR" in line]


def test_a_wrong_secret_is_reported_and_retried(
    people: Connection, client: FlaskClient, database: str, start: Start, prosody: Prosody
) -> None:
    wrong = relay(start, database, f"xmpp://{COMPONENT}:wrong@127.0.0.1:{prosody.port}", "started")
    eventually(lambda: "not-authorized" in (client.get("/v1/channels/xmpp").get_json().get("last_error") or ""))
    assert not [line for line in wrong.lines if "Traceback" in line]


def test_the_channel_of_the_whole_system_is_listed_and_operated(
    people: Connection, client: FlaskClient, database: str, start: Start, prosody: Prosody, join: Join
) -> None:
    relay(start, database, prosody.setting())
    olga = join("olga@localhost")
    assert client.post("/v1/channels/xmpp/pause").get_json()["state"] == "paused"
    first, second = enqueue(people, 7, "1"), enqueue(people, 7, "2")
    send_all(people)
    (listed,) = client.get("/v1/channels").get_json()["channels"]
    assert (listed["store_id"], listed["name"], listed["kind"], listed["url"]) == (None, "xmpp", "xmpp", None)
    assert client.delete(f"/v1/channels/xmpp/dead-letters/{second.chat_id}").status_code == 404
    assert client.delete(f"/v1/channels/xmpp/dead-letters/{first.chat_id}").status_code == 200
    people.execute("select resume_channel('xmpp')")
    eventually(lambda: olga.bodies() == ["2"])
    assert client.post("/v1/channels/xmpp/replay", json={"cursor": 0}).status_code == 200
    eventually(lambda: olga.bodies() == ["2", "1", "2"])
    assert client.get("/v1/channels/other").status_code == 404
    assert client.get("/v1/stores/1/channels/xmpp").status_code == 404


def test_a_relay_that_looks_for_its_channel_notifies_no_other(people: Connection) -> None:
    people.execute("select open_system_channel('xmpp')")
    people.execute("listen channels_changed")
    people.execute("select open_system_channel('xmpp')")
    people.execute("select pg_notify('channels_changed', 'the first')")
    assert [note.payload for note in people.notifies(timeout=10, stop_after=1)] == ["the first"]


def test_without_the_setting_nothing_of_it_is_loaded_or_run(database: str, people: Connection) -> None:
    people.execute("select open_system_channel('xmpp')")  # from an earlier run with the setting
    code = (
        "import asyncio, os, sys\nfrom relay.__main__ import run\nfrom sql.settings import Settings\n"
        "async def main():\n    asyncio.get_running_loop().call_later(1, os.kill, os.getpid(), 15)\n"
        "    await run(Settings.from_environment())\nasyncio.run(main())\n"
        "print('loaded', sorted({'slixmpp', 'relay.xmpp', 'relay.xmpp_link'} & set(sys.modules)))"
    )
    env = {"DATABASE_URL": database, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "loaded []", done.stderr
    assert people.execute("select token from channels").fetchone() == (0,)  # no relay has leased it


def test_the_setting_without_the_library_names_what_to_install(database: str) -> None:
    code = "import sys; sys.modules['slixmpp'] = None; from relay.__main__ import main; main()"
    env = {"DATABASE_URL": database, "PATH": "/usr/bin:/bin", "XMPP_COMPONENT": "xmpp://chat.example.org:x@localhost"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "slixmpp is not installed; run: python3 bin/install.py requirements-xmpp.txt" in done.stderr


def test_the_setting_is_read_and_never_shown() -> None:
    read = Settings.from_environment({"XMPP_COMPONENT": "xmpp://Chat.Example.org:p%2Fw%3A%201@127.0.0.1"})
    assert read.xmpp_component == XmppComponent("chat.example.org", SECRET, "127.0.0.1", 5347)
    assert SECRET not in repr(read)
    assert Settings.from_environment({}).xmpp_component is None
    for text in (
        "chat.example.org",
        "http://c:s@h:1",
        "xmpp://c@h",
        "xmpp://c:hush@h:x",
        "xmpp://a b:hush@h",
        "xmpp://",
    ):
        with pytest.raises(BadSetting, match="XMPP_COMPONENT") as raised:
            Settings.from_environment({"XMPP_COMPONENT": text})
        assert "hush" not in str(raised.value)
