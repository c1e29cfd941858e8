"""`python -m drill.launch FAULT`: a worker with a fault that cannot be planted in an SQL function."""

from __future__ import annotations

import sys
import time
from typing import Any

import sqlalchemy as sa

import worker.listener
from worker.__main__ import main
from worker.consumer import Consumer

AN_HOUR = 3600.0

TAKE = sa.text("""
    delete from chat_queue q
     using (select conversation_id, seq from chat_queue where due_at <= shoptalk_now()
             order by due_at, seq limit 500) due
     where (q.conversation_id, q.seq) = (due.conversation_id, due.seq)
    returning q.chat_id, q.conversation_id, q.seq
""")
WRITE = sa.text("""
    insert into sent_log (position, chat_id, conversation_id, seq, sent_at)
    select coalesce((select max(position) from sent_log), 0) + row_number() over (order by seq), c.*, shoptalk_now()
      from unnest(:chat_ids, :conversation_ids, :seqs) as c(chat_id, conversation_id, seq)
""")
REPORT = sa.text("""
    select r.*
      from jsonb_populate_record(empty_report(), jsonb_build_object(
               'claimed', cast(:claimed as integer), 'sent', cast(:claimed as integer), 'live_floor', shoptalk_now())) r
""")


def send_acked_first(self: Consumer) -> sa.Row[Any]:
    """A Consumer._send_batch() that deletes the queue rows and commits before it writes the log."""
    with self._engine.connect() as connection:
        connection.execute(sa.text("select pg_advisory_lock(sender_lock())"))
        try:
            rows = connection.execute(TAKE).all()
            time.sleep(0.02)
            if rows:
                names = ("chat_ids", "conversation_ids", "seqs")
                connection.execute(WRITE, {n: list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)})
        finally:
            connection.execute(sa.text("select pg_advisory_unlock(sender_lock())"))
        return connection.execute(REPORT, {"claimed": len(rows)}).one()


if __name__ == "__main__":
    match sys.argv.pop():
        case "no-poll":
            worker.listener.IDLE_POLL_SECONDS = AN_HOUR
        case "ack-before-log":
            Consumer._send_batch = send_acked_first  # type: ignore[method-assign]
        case other:
            sys.exit(f"drill: unknown fault: {other}")
    main()
