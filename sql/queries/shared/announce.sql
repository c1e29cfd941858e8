-- Tells every web process of events that are not in the log, many at once: each with the streams that it is for, so that a
-- process that hears it need look up nothing. A statement of its own, far from the hot path: a committing NOTIFY takes a
-- lock of the whole cluster.
select count(notify_event(e.event, cv, e.data))
  from jsonb_to_recordset(cast(:events as jsonb)) as e(event text, conversation_id integer, data jsonb)
  join conversations cv using (conversation_id)
