-- Tells every web process of what is not in the log, a list of it at once: each with whom it is for, so that
-- a process that hears it need look up nothing. A statement of its own, far from the hot path: a committing
-- NOTIFY takes a lock of the whole cluster.
select count(pg_notify('chat_event', json_build_object(
           'event', e.event, 'data', e.data,
           'to', json_build_object('conversation_id', c.conversation_id, 'client_id', c.client_id,
                                   'operator_id', c.operator_id, 'store_id', c.store_id))::text))
  from jsonb_to_recordset(cast(:events as jsonb)) as e(event text, conversation_id integer, data jsonb)
  join conversations c using (conversation_id)
