-- See the function of this name in schema.sql. Raises ST404.
select requeue_on_channel(:name, :store_id, :chat_id)
