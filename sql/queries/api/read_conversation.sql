-- A page of a conversation's chats in order, each with its state, the conversation's own columns, and the cursor with
-- which a stream continues this very snapshot. The page first, by its index, then each chat's state by key: `limit 1`
-- keeps the planner from hashing the whole queue, with its million held chats, because it misjudged how long the
-- conversation is.
with page as materialized (
    select * from chats where conversation_id = :conversation_id and seq > :after order by seq limit :page
)
select p.chat_id, p.conversation_id, p.seq, p.sender, p.payload, p.client_id, p.operator_id, p.created_at,
       t.state, t.release_at, cv.store_id, cv.operator_group,
       coalesce((select max(l.position) from sent_log l), 0) as cursor
  from page p
  join conversations cv on cv.conversation_id = p.conversation_id
  join lateral (select t.state, t.release_at from chat_states t
                 where t.conversation_id = p.conversation_id and t.seq = p.seq limit 1) t on true
 order by p.seq
