-- A channel's requeued dead letters that are due, in order; with all columns of the statements that read the log for a
-- channel.
select d.position, l.sent_at, ch.chat_id, ch.conversation_id, ch.seq, ch.sender, ch.payload, ch.client_id,
       ch.operator_id, ch.created_at, 'sent' as state, null::timestamptz as release_at, cv.store_id,
       ch.held_until is not null as was_held, recipient_jid(ch) as xmpp_jid
  from channel_dead_letters d
  join chats ch on ch.chat_id = d.chat_id
  join conversations cv on cv.conversation_id = ch.conversation_id
  join sent_log l on l.position = d.position
 where d.channel_id = :channel_id and d.requeue_at <= shoptalk_now()
 order by d.position
 limit :page
