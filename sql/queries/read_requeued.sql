-- A channel's dead letters that somebody wants delivered once more, in order; the columns of each
-- of the statements that read the log for one.
select f.position, l.sent_at, c.chat_id, c.conversation_id, c.seq, c.sender, c.payload, c.client_id,
       c.operator_id, c.created_at, 'sent' as state, null::timestamptz as release_at, v.store_id,
       c.release_at is not null as was_held, recipient_jid(c) as xmpp_jid
  from channel_failures f
  join chats c on c.chat_id = f.chat_id
  join conversations v on v.conversation_id = c.conversation_id
  join sent_log l on l.position = f.position
 where f.channel_id = :channel_id and f.requeue_at <= shoptalk_now()
 order by f.position
 limit :page
