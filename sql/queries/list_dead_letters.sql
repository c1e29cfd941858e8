-- What requeue_failed() would requeue, of a store or (null) of all: to tell open pages of it. It answers only how many.
select f.chat_id
  from chat_failures f join chats c using (chat_id) join conversations v using (conversation_id)
 where f.dead_at is not null and (cast(:store_id as integer) is null or v.store_id = :store_id)
