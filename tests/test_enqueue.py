"""enqueue_chat(): numbering, repeats, parties, placeholders, and races of two sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.db import Connection, clock, count, enqueue, wait_until_blocked


def test_numbers_each_conversation_from_one(shop: Connection) -> None:
    assert [enqueue(shop, c).seq for c in (7, 7, 8, 7)] == [1, 2, 1, 3]


def test_a_chat_is_queued_with_a_row_in_the_queue(shop: Connection) -> None:
    chat = enqueue(shop)
    assert (chat.state, chat.release_at, chat.is_repeat) == ("queued", None, False)
    assert shop.execute("select chat_id, conversation_id, seq, store_id from chat_queue").fetchall() == [
        (chat.chat_id, 7, 1, 1)
    ]


def test_makes_ids_where_none_are_given_and_steps_over_taken_ones(shop: Connection) -> None:
    enqueue(shop, conversation=1000000001, chat_id=1000000000001)
    chat = enqueue(shop, conversation=None)
    assert chat.conversation_id > 1000000001
    assert chat.chat_id > 1000000000001
    assert chat.seq == 1


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        ("plain", "plain"),
        ("{{ username }} and {{ operator }}", "Ann and Olga"),
        ("{{username}}{{  username  }}{{operator}}", "AnnAnnOlga"),
        ("{{ other }} {{ username", "{{ other }} {{ username"),
        ("{{\tusername\n}}", "Ann"),
    ],
)
def test_placeholders_become_the_names(shop: Connection, payload: str, sent: str) -> None:
    assert enqueue(shop, payload=payload).payload == sent


def test_names_that_look_like_placeholders_or_patterns_are_left_alone(shop: Connection) -> None:
    shop.execute(r"insert into clients values (3, '{{ operator }} \1 & $1', 'x')")
    shop.execute(r"insert into operators values (3, '{{ username }} \1 \\ &', 'x', 1)")
    chat = enqueue(shop, client=3, operator=3, payload="{{ operator }}|{{ username }}")
    assert chat.payload == r"{{ username }} \1 \\ &|{{ operator }} \1 & $1"


def test_the_same_chat_again_answers_the_first_answer(shop: Connection) -> None:
    first = enqueue(shop, payload="hi {{ username }}", chat_id=5)
    shop.execute("select send_chats()")
    again = enqueue(shop, payload="hi {{ username }}", chat_id=5)
    assert again == first._replace(is_repeat=True)
    assert enqueue(shop, None, "hi {{ username }}", 5) == again
    assert (count(shop, "chats"), count(shop, "chat_queue")) == (1, 0)
    assert enqueue(shop).seq == 2


@pytest.mark.parametrize(
    "other",
    [{"payload": "other"}, {"client": 2}, {"operator": 2}, {"conversation": 8}, {"sender": "operator"}],
)
def test_the_same_id_with_other_content_is_refused(shop: Connection, other: dict[str, object]) -> None:
    enqueue(shop, chat_id=5)
    with pytest.raises(psycopg.Error) as error:
        enqueue(shop, **({"chat_id": 5} | other))
    assert (error.value.sqlstate, error.value.diag.column_name) == ("ST409", "chat_id")
    assert count(shop, "chats") == 1


@pytest.mark.parametrize(
    ("parties", "sqlstate", "field"),
    [
        ({"client": 2}, "ST409", "conversation_id"),
        ({"operator": 2}, "ST409", "conversation_id"),
        ({"client": 9}, "ST404", "client_id"),
        ({"operator": 9}, "ST404", "operator_id"),
        ({"conversation": 8, "client": 9}, "ST404", "client_id"),
        ({"conversation": 8, "operator": 9}, "ST404", "operator_id"),
    ],
)
def test_other_or_unknown_parties_are_refused_and_leave_no_gap(
    shop: Connection, parties: dict[str, int], sqlstate: str, field: str
) -> None:
    enqueue(shop)
    with pytest.raises(psycopg.Error) as error:
        enqueue(shop, **parties)
    assert (error.value.sqlstate, error.value.diag.column_name) == (sqlstate, field)
    assert enqueue(shop).seq == 2


@pytest.mark.parametrize("values", [{"payload": ""}, {"payload": "x" * 300}, {"chat_id": 0}, {"chat_id": 2**53 + 1},
                                    {"sender": "x"}, {"conversation": 0}])  # fmt: skip
def test_what_a_program_gets_wrong_in_sql_is_refused_too(shop: Connection, values: dict[str, object]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        enqueue(shop, **values)
    assert count(shop, "chats") == 0


def test_two_identical_requests_at_once_make_one_chat(shop: Connection, connect: Callable[[], Connection]) -> None:
    enqueue(shop)
    first, second = connect(), connect()
    with first.transaction():
        one = enqueue(first, chat_id=5)
        thread = threading.Thread(target=lambda: answers.append(enqueue(second, chat_id=5)))
        answers: list[psycopg.rows.Row] = []
        thread.start()
        wait_until_blocked(shop, second)
    thread.join()
    assert answers == [one._replace(is_repeat=True)]
    assert enqueue(shop).seq == 3


def test_an_identical_request_whose_twin_rolls_back_is_accepted(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    first, second = connect(), connect()
    answers: list[psycopg.rows.Row] = []
    thread = threading.Thread(target=lambda: answers.append(enqueue(second, chat_id=5)))
    with first.transaction(force_rollback=True):
        enqueue(first, chat_id=5)
        thread.start()
        wait_until_blocked(shop, second)
    thread.join()
    assert (answers[0].seq, answers[0].is_repeat) == (1, False)


def test_two_first_chats_of_one_conversation_are_both_kept(shop: Connection, connect: Callable[[], Connection]) -> None:
    sessions = [connect() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        chats = list(pool.map(lambda session: enqueue(session), sessions))
    assert sorted(chat.seq for chat in chats) == list(range(1, 9))
    assert count(shop, "conversations") == 1


def test_a_list_is_answered_item_by_item_in_its_order(shop: Connection) -> None:
    rows = shop.execute(
        "select index, seq, conversation_id, error_state, error_field from enqueue_chats("
        "array[8, 7, 8, 8], array[1, 1, 2, 1], array[1, 1, 1, 1], array['a', 'b', 'c', 'd'],"
        "array_fill('client'::text, array[4]), array_fill(null::bigint, array[4])) order by index"
    ).fetchall()
    assert rows == [(1, 1, 8, None, None), (2, 1, 7, None, None), (3, None, None, "ST409", "conversation_id"),
                    (4, 2, 8, None, None)]  # fmt: skip


def enqueue_list(db: Connection, *items: tuple[int, str, int | None]) -> list[tuple[object, ...]]:
    """Enqueues (conversation, payload, chat_id) each; answers (seq, is_repeat, payload or SQLSTATE) each."""
    arrays = [[c for c, _, _ in items], [1] * len(items), [1] * len(items), [p for _, p, _ in items]]
    arrays += [["client"] * len(items), [i for _, _, i in items]]
    return db.execute(
        "select seq, is_repeat, coalesce(payload, error_state)"
        " from enqueue_chats(%s::int[], %s::int[], %s::int[], %s::text[], %s::text[], %s::bigint[]) order by index",
        arrays,
    ).fetchall()


def test_a_list_of_known_conversations_goes_at_once_and_the_rest_one_by_one(shop: Connection) -> None:
    enqueue(shop, 7, "first", chat_id=5)
    enqueue(shop, 8)
    items = [(8, "a", None), (7, "first", 5), (8, "b", 6), (7, "{{ username }}", None), (9, "c", None)]
    assert enqueue_list(shop, *items) == [
        (2, False, "a"), (1, True, "first"), (3, False, "b"), (2, False, "Ann"), (1, False, "c")]  # fmt: skip
    assert count(shop, "chats") == count(shop, "chat_queue") == 6


def test_an_id_twice_in_a_list_is_a_repeat_or_a_conflict(shop: Connection) -> None:
    enqueue(shop, 7)
    enqueue(shop, 8)
    assert enqueue_list(shop, (7, "a", 5), (7, "b", None), (7, "a", 5), (8, "a", 5)) == [
        (2, False, "a"), (3, False, "b"), (2, True, "a"), (None, None, "ST409")]  # fmt: skip
    assert [enqueue(shop, c).seq for c in (7, 8)] == [4, 2]


def test_a_list_is_held_by_each_ones_own_store(shop: Connection) -> None:
    clock(shop, "2026-03-02 03:00")
    enqueue(shop, 7)
    enqueue(shop, 8, operator=2)
    rows = shop.execute(
        "select state, release_at is not null from enqueue_chats("
        "array[7, 8], array[1, 1], array[1, 2], array['a', 'b'], array['client', 'client'],"
        " array[null, null]::bigint[]) order by index"
    ).fetchall()
    assert rows == [("queued", False), ("held", True)]
    assert shop.execute("select count(*) from chat_queue where held_since is not null").fetchone() == (2,)
