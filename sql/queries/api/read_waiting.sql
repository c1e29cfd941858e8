-- The waiting chats of a store, a conversation or a client (the others are null) as they are now, for the streams of these
-- conversations, clients, operators and stores: at most so many for each stream, of the conversations with the newest
-- activity. By stream, so that a busy one leaves nothing out for the others; conversations first and then their chats, so
-- that of a store with a million waiting chats only these are read.
with scope as materialized (
    select conversation_id, client_id, operator_id, store_id, last_chat_at
      from conversations
     where store_id = :store_id or conversation_id = :conversation_id or client_id = :client_id
), waiting as (
    select w.*
      from unnest(cast(:conversation_ids as integer[])) stream(id)
     cross join lateral (
               select cv.conversation_id, cv.store_id, cv.last_chat_at, q.seq
                 from scope cv
                 join chat_queue q using (conversation_id)
                where cv.conversation_id = stream.id
                order by q.seq desc
                limit :most) w
    union
    select w.*
      from (select 'client_id' as kind, unnest(cast(:client_ids as integer[])) as id
            union all select 'operator_id', unnest(cast(:operator_ids as integer[]))
            union all select 'store_id', unnest(cast(:store_ids as integer[]))) stream
     cross join lateral (
               select cv.conversation_id, cv.store_id, cv.last_chat_at, q.seq
                 from (select * from scope
                        where case stream.kind when 'client_id' then client_id when 'operator_id' then operator_id
                                               else store_id end = stream.id
                        order by last_chat_at desc, conversation_id) cv
                cross join lateral (select seq from chat_queue
                                     where conversation_id = cv.conversation_id order by seq desc limit :most) q
                order by cv.last_chat_at desc, cv.conversation_id
                limit :most) w
)
select ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id, ch.operator_id, ch.created_at,
       cs.state, cs.release_at, w.store_id
  from waiting w
  join lateral (select * from chats where conversation_id = w.conversation_id and seq = w.seq limit 1) ch on true
  join lateral (select state, release_at from chat_states
                 where conversation_id = w.conversation_id and seq = w.seq limit 1) cs on true
 order by w.last_chat_at desc, w.conversation_id, w.seq
