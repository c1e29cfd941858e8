"""The measured databases: a shop, queued chats, sent chats, a long history."""

from __future__ import annotations

import functools

import psycopg

from bench.stage import Stage
from sql.install import prepare

# The payload of every chat, of typical length.
PAYLOAD = "Hello, is my order on its way? I asked for the large one in green, and for a card in the box. Thanks, Ann"

# Store 1 never closes; store 2 is closed for the next hours.
SHOP = """
select add_store(1, 'UTC', '00:00', '00:00'),
       add_store(2, 'UTC', to_char(now() + interval '10 hours', 'HH24:MI')::time,
                 to_char(now() + interval '12 hours', 'HH24:MI')::time);
insert into clients values (1, 'Ann', 'Oslo');
insert into operators values (1, 'Olga', 'day', 1), (2, 'Otto', 'night', 2);
"""
CONVERSATIONS = """
insert into conversations (conversation_id, client_id, operator_id, store_id, operator_group)
select g, 1, %(store)s, %(store)s, 'day' from generate_series(%(first)s::int, %(last)s::int) g
"""
# Chats for conversations first, first + 1, … in turn; with `uneven` every tenth belongs to the first one; with
# `together` each conversation's chats are consecutive. seq continues that of the conversation.
CHATS = """
create temp table added as
select id, conversation_id, c.last_seq + row_number() over (partition by conversation_id order by id) as seq
  from (select g + (select coalesce(max(chat_id), 0) from chats) as id,
               %(first)s::int + case when %(together)s then g / (%(chats)s / %(conversations)s)
                                     when not %(uneven)s then g %% %(conversations)s
                                     when g %% 10 = 0 then 0
                                     else 1 + g %% (%(conversations)s - 1) end as conversation_id
          from generate_series(0, %(chats)s::int - 1) g) n
  join conversations c using (conversation_id);
"""
HISTORY = """
insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id, created_at)
select id + 1, conversation_id, seq, 'client', %(payload)s, 1, 1, now() - interval '1 hour' from added order by id;
update conversations c set last_seq = a.last_seq
  from (select conversation_id, max(seq) as last_seq from added group by 1) a
 where a.conversation_id = c.conversation_id;
"""
QUEUED = """
insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)
select case when c.store_id = 1 then now() - interval '1 minute' else now() + interval '10 hours' end
         + id * interval '1 microsecond',
       case when c.store_id = 2 then now() end, id + 1, conversation_id, seq, c.store_id
  from added join conversations c using (conversation_id) order by id;
"""
SENT = """
insert into sent_log (position, chat_id, conversation_id, seq, sent_at)
select (select coalesce(max(position), 0) from sent_log) + row_number() over (order by id),
       id + 1, conversation_id, seq, now() - interval '1 hour' from added order by id;
"""

PLAIN_TABLE = """
create table bench_plain (id bigint generated always as identity primary key, conversation_id int, payload text)
"""


def template(stage: Stage) -> str:
    """The template of a shop without chats."""
    return stage.template("shop", functools.partial(shop, conversations=stage.sizes.conversations))


def script(stage: Stage, text: str) -> str:
    """A script for pgbench, with its placeholders filled in."""
    return text.format(conversations=stage.sizes.conversations, payload=PAYLOAD)


def shop(url: str, conversations: int) -> None:
    """Installs the schema, and adds conversations without chats."""
    prepare(url)
    with psycopg.connect(url) as db:
        db.execute(SHOP)
        db.execute(CONVERSATIONS, {"store": 1, "first": 1, "last": conversations})


def add(
    url: str, state: str, chats: int, conversations: int, first: int = 1, uneven: bool = False, together: bool = False
) -> None:
    """Adds chats; `state` is QUEUED (in store 2: held) or SENT."""
    values = {
        "chats": chats,
        "conversations": conversations,
        "first": first,
        "uneven": uneven,
        "together": together,
        "payload": PAYLOAD,
    }
    with psycopg.connect(url, cursor_factory=psycopg.ClientCursor) as db:
        db.execute("set local session_replication_role = replica")  # no foreign key checks, no wake-up trigger
        for statement in (CHATS, HISTORY, state, "drop table added"):
            db.execute(statement, values)


def queued(url: str, chats: int, conversations: int, uneven: bool = False) -> None:
    """A shop with chats that are due."""
    shop(url, conversations)
    add(url, QUEUED, chats, conversations, uneven=uneven)


def talked(url: str, conversations: int) -> None:
    """A shop whose conversations have 50 chats each, all sent; and a table for the minimal views."""
    shop(url, conversations)
    add(url, SENT, 50 * conversations, conversations)
    with psycopg.connect(url) as db:
        db.execute(PLAIN_TABLE)


def long_history(url: str, conversations: int, sent: int, held: int) -> None:
    """The same, with `sent` chats of other conversations in the log and `held` waiting for store 2."""
    talked(url, conversations)
    first = 1_000_000
    with psycopg.connect(url) as db:
        db.execute(CONVERSATIONS, {"store": 1, "first": first, "last": first + sent // 100})
        db.execute(CONVERSATIONS, {"store": 2, "first": 2 * first, "last": 2 * first + held // 10})
    add(url, SENT, sent, sent // 100, first=first, together=True)
    add(url, QUEUED, held, held // 10, first=2 * first)
