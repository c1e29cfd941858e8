-- An operator's or a store's conversations (the other is null), newest activity first, from before an
-- instant and id on; each with its last chat, what each party has read, and how much of the other's it has not,
-- counted up to 100 in the last 200 sent. And the cursor with which a stream continues this very snapshot.
--
-- First the page, from the conversations alone; then, by key, only what the page shows. `limit 1` keeps the
-- planner from hashing whole tables because it misjudged the page, `offset 0` from asking for the chats of
-- conversations that the page does not come to. Whose chats are all pruned is not shown.
with page as materialized (
    select *
      from (select conversation_id, store_id, client_id, operator_id, operator_group, last_seq, last_chat_at
              from conversations
             where (operator_id = :operator_id or store_id = :store_id)
               and (last_chat_at, conversation_id) < (cast(:before_at as timestamptz), :before_id)
             order by last_chat_at desc, conversation_id desc
            offset 0) v
     where (select true from chats where conversation_id = v.conversation_id limit 1)
     order by last_chat_at desc, conversation_id desc
     limit :page
)
select p.*, k.username, o.operator_name, m.client as client_read, m.operator as operator_read,
       u.client as client_unread, u.operator as operator_unread,
       c.chat_id, c.seq, c.sender, c.payload, c.created_at, s.state, s.release_at,
       coalesce((select max(position) from sent_log), 0) as cursor
  from page p
  join lateral (select username from clients where client_id = p.client_id limit 1) k on true
  join lateral (select operator_name from operators where operator_id = p.operator_id limit 1) o on true
  join lateral (select coalesce(max(seq) filter (where reader = 'client'), 0) as client,
                       coalesce(max(seq) filter (where reader = 'operator'), 0) as operator
                  from read_marks where conversation_id = p.conversation_id) m on true
  join lateral (select least(100, count(*) filter (where t.sender = 'operator' and l.seq > m.client)) as client,
                       least(100, count(*) filter (where t.sender = 'client' and l.seq > m.operator)) as operator
                  from (select seq from sent_log
                         where conversation_id = p.conversation_id and seq > least(m.client, m.operator)
                         order by seq desc limit 200) l
                  join lateral (select sender from chats
                                 where conversation_id = p.conversation_id and seq = l.seq limit 1) t on true) u on true
  join lateral (select * from chats where conversation_id = p.conversation_id order by seq desc limit 1) c on true
  join lateral (select state, release_at from chat_states
                 where conversation_id = p.conversation_id and seq = c.seq limit 1) s on true
 order by p.last_chat_at desc, p.conversation_id desc
