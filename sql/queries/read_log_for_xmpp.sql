-- The next chats of the log that go to an XMPP address, in a window of positions; of all stores.
select l.position, l.sent_at, c.chat_id, c.conversation_id, c.seq, c.sender, c.payload, c.client_id,
       c.operator_id, c.created_at, c.release_at is not null as was_held, recipient_jid(c) as xmpp_jid
  from sent_log l
  join chats c on c.chat_id = l.chat_id
 where l.position > :after and l.position <= :until
   and recipient_jid(c) is not null
 order by l.position
 limit :page
