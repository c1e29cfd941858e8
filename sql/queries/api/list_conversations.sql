-- An operator's or a store's conversations (the other is null), newest activity first, from before an instant and id
-- on; each with its last chat, the seq up to which each party has read, and how many of the other party's chats it has
-- not read, counted up to 100 in the last 200 sent. And the cursor with which a stream continues this very snapshot.
--
-- First the page, from the conversations alone; then, by key, only what the page shows. `limit 1` keeps the planner
-- from hashing whole tables because it misjudged the page, `offset 0` from looking up the chats of conversations that
-- are not on the page. A conversation whose chats are all pruned is left out.
with page as materialized (
    select *
      from (select cv.conversation_id, cv.store_id, cv.client_id, cv.operator_id, cv.operator_group, cv.last_seq,
                   cv.last_chat_at
              from conversations cv
             where (cv.operator_id = :operator_id or cv.store_id = :store_id)
               and (cv.last_chat_at, cv.conversation_id) < (cast(:before_at as timestamptz), :before_id)
             order by cv.last_chat_at desc, cv.conversation_id desc
            offset 0) cv
     where (select true from chats ch where ch.conversation_id = cv.conversation_id limit 1)
     order by cv.last_chat_at desc, cv.conversation_id desc
     limit :page
)
select p.*, cl.username, o.operator_name, m.client as client_read, m.operator as operator_read,
       u.client as client_unread, u.operator as operator_unread,
       ch.chat_id, ch.seq, ch.sender, ch.payload, ch.created_at, t.state, t.release_at,
       coalesce((select max(l.position) from sent_log l), 0) as cursor
  from page p
  join lateral (select cl.username from clients cl where cl.client_id = p.client_id limit 1) cl on true
  join lateral (select o.operator_name from operators o where o.operator_id = p.operator_id limit 1) o on true
  join lateral (select coalesce(max(m.seq) filter (where m.party = 'client'), 0) as client,
                       coalesce(max(m.seq) filter (where m.party = 'operator'), 0) as operator
                  from read_marks m where m.conversation_id = p.conversation_id) m on true
  join lateral (select least(100, count(*) filter (where ch.sender = 'operator' and l.seq > m.client)) as client,
                       least(100, count(*) filter (where ch.sender = 'client' and l.seq > m.operator)) as operator
                  from (select l.seq from sent_log l
                         where l.conversation_id = p.conversation_id and l.seq > least(m.client, m.operator)
                         order by l.seq desc limit 200) l
                  join lateral (select ch.sender from chats ch
                                 where ch.conversation_id = p.conversation_id and ch.seq = l.seq limit 1) ch on true) u
       on true
  join lateral (select * from chats ch where ch.conversation_id = p.conversation_id order by ch.seq desc limit 1) ch
       on true
  join lateral (select t.state, t.release_at from chat_states t
                 where t.conversation_id = p.conversation_id and t.seq = ch.seq limit 1) t on true
 order by p.last_chat_at desc, p.conversation_id desc
