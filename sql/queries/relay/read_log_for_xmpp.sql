-- The next chats of the log whose recipient has an XMPP address, of all stores, in a window of positions.
select l.position, l.sent_at, ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id,
       ch.operator_id, ch.created_at, ch.held_until is not null as was_held, recipient_jid(ch) as xmpp_jid
  from sent_log l
  join chats ch on ch.chat_id = l.chat_id
 where l.position > :after and l.position <= :until
   and recipient_jid(ch) is not null
 order by l.position
 limit :page
