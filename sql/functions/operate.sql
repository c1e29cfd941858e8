-- What people do with waiting chats: cancel, edit and requeue a chat; pause, resume and release a store or a conversation.
--
-- All raise ST404 for what does not exist, and tell open pages what they have changed (signals.sql).

-- The chat. Raises ST404.
create or replace function find_chat(chat_id bigint) returns chats
language plpgsql stable as $$
declare
    chat chats;
begin
    select * into chat from chats ch where ch.chat_id = find_chat.chat_id;
    if not found then
        perform refuse_unknown('chat', chat_id);
    end if;
    return chat;
end $$;

-- Takes back a chat that has not been sent: queued, held or failed. Cancelling twice is no error. Raises ST409 for a chat
-- that is sent.
create or replace function cancel_chat(chat_id bigint) returns void
language plpgsql volatile as $$
declare
    chat chats := find_chat(chat_id);
    state text;
begin
    loop
        -- Waits for a sender that has claimed the queue row, and then finds it gone.
        delete from chat_queue q where q.conversation_id = chat.conversation_id and q.seq = chat.seq;
        if not found then
            delete from chat_failures f where f.chat_id = chat.chat_id and f.dead_at is not null;
        end if;
        if found then
            insert into cancelled_chats values (chat.chat_id, shoptalk_now()) on conflict do nothing;
            perform tell_chats_changed(array[chat.chat_id]);
            return;
        end if;
        select cs.state into state from chat_states cs where cs.chat_id = chat.chat_id;
        exit when state = 'cancelled';
        if state = 'sent' then
            raise 'chat % is sent and cannot be cancelled', chat.chat_id using errcode = 'ST409', column = 'chat_id';
        end if;
        -- Its state changed between the two looks (requeued, dead-lettered): look again.
    end loop;
end $$;

-- Replaces the text of a chat that still waits. Raises ST409 for one that does not wait any more.
create or replace function edit_chat(chat_id bigint, payload text) returns void
language plpgsql volatile set enable_seqscan = off as $$
declare
    chat chats := find_chat(chat_id);
    rendered text := render(payload, chat.client_id, chat.operator_id);
begin
    -- Waits for a sender that has claimed the queue row, and then finds it gone; a later sender skips the locked row.
    perform from chat_queue q where q.conversation_id = chat.conversation_id and q.seq = chat.seq for update;
    if not found then
        raise 'chat % does not wait any more and cannot be edited', chat_id using errcode = 'ST409', column = 'chat_id';
    end if;
    update chats ch set payload = rendered, template = nullif(edit_chat.payload, rendered) where ch.chat_id = chat.chat_id;
    perform tell_chats_changed(array[chat.chat_id]);
end $$;

-- Gives a dead letter new attempts, without telling open pages. Raises ST409 for a chat that is not failed.
create or replace function queue_again(chat chats) returns void
language plpgsql volatile as $$
declare
    conversation conversations;
    quiet_for integer;
    at timestamptz := shoptalk_now();
    schedule record;
begin
    delete from chat_failures f where f.chat_id = chat.chat_id and f.dead_at is not null;
    if not found then
        raise 'chat % is not failed', chat.chat_id using errcode = 'ST409', column = 'chat_id';
    end if;
    -- Locked, so that pause_conversation() either is seen here or finds the queue row; and the quiet hours after that wait.
    select * into conversation from conversations cv where cv.conversation_id = chat.conversation_id for share;
    if chat.sender = 'operator' then
        quiet_for := quiet_for(chat.client_id);
    end if;
    schedule := schedule_chat(conversation, quiet_for, false, at);
    perform queue_chats(array[row (
        schedule.due_at, case when schedule.held_until is not null then at end, chat.chat_id, chat.conversation_id,
        chat.seq, conversation.store_id, quiet_for, false, conversation.paused_at is not null)::chat_queue]);
end $$;

-- Gives a dead letter new attempts. It is sent as soon as its store is open, after the chats of its conversation that were
-- sent meanwhile. Raises ST409 for a chat that is not failed.
create or replace function requeue_chat(chat_id bigint) returns void
language plpgsql volatile as $$
begin
    perform queue_again(find_chat(chat_id));
    perform tell_chats_changed(array[chat_id]);
end $$;

-- Requeues all dead letters, of the store or (null) of all stores; returns how many.
create or replace function requeue_failed(store_id integer default null) returns bigint
language plpgsql volatile as $$
declare
    failed bigint[] := array(
        select f.chat_id
          from chat_failures f join chats ch using (chat_id) join conversations cv using (conversation_id)
         where f.dead_at is not null and (requeue_failed.store_id is null or cv.store_id = requeue_failed.store_id)
         order by ch.conversation_id, ch.seq
           for update of f);
begin
    perform queue_again(find_chat(id)) from unnest(failed) id;
    perform tell_chats_changed(failed);
    return cardinality(failed);
end $$;


-- Pause, resume, release. They cost the claim nothing: a paused store is one that never opens, and the queue rows of a
-- paused conversation are never due.

-- Nothing of the store is sent until resume_store(), urgent chats included; chats accepted meanwhile are held. Waits for a
-- batch that is being sent. Returns how many of its chats wait. Pausing twice is no error.
create or replace function pause_store(store_id integer) returns bigint
language plpgsql volatile as $$
declare
    at timestamptz;
begin
    perform check_store(store_id);
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    at := shoptalk_now();
    update stores s set paused_at = at where s.store_id = pause_store.store_id and s.paused_at is null;
    if found then
        perform cache_opening_period(store_id, at);
        perform reschedule_held(store_id, at);
        -- Last, so that sending stands still only for a moment: a running batch ends, and none begins before the commit.
        perform pg_advisory_xact_lock(sender_lock());
    end if;
    return (select count(*) from chat_queue q where q.store_id = pause_store.store_id);
end $$;

-- The store sends again, in order: at once if it is open, else from its next opening. Returns how many chats waited.
create or replace function resume_store(store_id integer) returns bigint
language plpgsql volatile as $$
declare
    at timestamptz;
begin
    perform check_store(store_id);
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    at := shoptalk_now();
    update stores s set paused_at = null where s.store_id = resume_store.store_id and s.paused_at is not null;
    if found then
        perform cache_opening_period(store_id, at);
        update chat_queue q set due_at = at
         where q.store_id = resume_store.store_id and q.any_hour and q.due_at = 'infinity' and not q.paused;
        perform reschedule_held(store_id, at);
    end if;
    return (select count(*) from chat_queue q where q.store_id = resume_store.store_id);
end $$;

-- The conversation with its row locked, so that no chat is accepted in it meanwhile, and the hours of its store too.
create or replace function lock_conversation(conversation_id integer) returns conversations
language plpgsql volatile as $$
declare
    conversation conversations;
begin
    perform pg_advisory_xact_lock(hours_lock(), cv.store_id & 63)
       from conversations cv where cv.conversation_id = lock_conversation.conversation_id;
    select * into conversation
      from conversations cv where cv.conversation_id = lock_conversation.conversation_id for no key update;
    if not found then
        perform refuse_unknown('conversation', conversation_id);
    end if;
    return conversation;
end $$;

-- Nothing of the conversation is sent until resume_conversation(). Waits for a sender that has claimed its rows. Returns
-- how many of its chats wait.
create or replace function pause_conversation(conversation_id integer) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
declare
    conversation conversations := lock_conversation(conversation_id);
    at timestamptz := shoptalk_now();
begin
    if conversation.paused_at is null then
        update conversations cv set paused_at = at where cv.conversation_id = conversation.conversation_id;
        update chat_queue q set paused = true, due_at = 'infinity', held_since = coalesce(q.held_since, at)
         where q.conversation_id = conversation.conversation_id;
        perform tell_waiting_changed('conversation_id', conversation_id);
    end if;
    return (select count(*) from chat_queue q where q.conversation_id = conversation.conversation_id);
end $$;

-- The conversation goes on, in order: all its rows are due now, and the claim defers those whose store is closed or whose
-- client is in quiet hours. Returns how many chats waited.
create or replace function resume_conversation(conversation_id integer) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
declare
    conversation conversations := lock_conversation(conversation_id);
    at timestamptz := shoptalk_now();
begin
    if conversation.paused_at is not null then
        update conversations cv set paused_at = null where cv.conversation_id = conversation.conversation_id;
        update chat_queue q set paused = false, due_at = at where q.conversation_id = conversation.conversation_id;
        perform pg_notify('chat_queued', '');
        perform tell_waiting_changed('conversation_id', conversation_id);
    end if;
    return (select count(*) from chat_queue q where q.conversation_id = conversation.conversation_id);
end $$;

-- Raises ST409 where the store or the conversation (null: none) is paused: nothing of it can be released.
create or replace function refuse_paused(store_id integer, conversation_id integer) returns void
language plpgsql stable as $$
begin
    if exists (select from stores s where s.store_id = refuse_paused.store_id and s.paused_at is not null) then
        raise 'store % is paused: resume it first', store_id using errcode = 'ST409', column = 'store_id';
    end if;
    if exists (select from conversations cv
                where cv.conversation_id = refuse_paused.conversation_id and cv.paused_at is not null) then
        raise 'conversation % is paused: resume it first', conversation_id
            using errcode = 'ST409', column = 'conversation_id';
    end if;
end $$;

-- Sends all held chats of the store now, whatever its hours and its clients' quiet hours, except those of a paused
-- conversation. Live chats do not wait behind them. Returns how many chats that were. Raises ST409 where it is paused.
create or replace function release_store(store_id integer) returns bigint
language plpgsql volatile as $$
declare
    at timestamptz;
    released bigint;
begin
    perform check_store(store_id);
    perform pg_advisory_xact_lock(hours_lock(), store_id & 63);
    at := shoptalk_now();
    perform refuse_paused(store_id, null);
    update chat_queue q set due_at = at, any_hour = true
     where q.store_id = release_store.store_id and q.held_since is not null and q.due_at > at and not q.paused;
    get diagnostics released = row_count;
    perform pg_notify('chat_queued', '');
    perform tell_waiting_changed('store_id', store_id);
    return released;
end $$;

-- The same for the held chats of a conversation, up to a chat of it (null: all of them).
create or replace function release_conversation(conversation_id integer, upto_seq integer default null) returns bigint
language plpgsql volatile set enable_seqscan = off as $$
declare
    conversation conversations := lock_conversation(conversation_id);
    at timestamptz := shoptalk_now();
    released bigint;
begin
    perform refuse_paused(conversation.store_id, conversation_id);
    update chat_queue q set due_at = at, any_hour = true
     where q.conversation_id = conversation.conversation_id and q.seq <= coalesce(upto_seq, q.seq)
       and q.held_since is not null and q.due_at > at;
    get diagnostics released = row_count;
    perform pg_notify('chat_queued', '');
    perform tell_waiting_changed('conversation_id', conversation_id);
    return released;
end $$;

-- The same for one chat, and those of its conversation before it, so that the order holds. Raises ST409 where it is not
-- held.
create or replace function release_chat(chat_id bigint) returns bigint
language plpgsql volatile as $$
declare
    chat chats := find_chat(chat_id);
    released bigint := release_conversation(chat.conversation_id, chat.seq);
begin
    if released = 0 then
        raise 'chat % is not held', chat_id using errcode = 'ST409', column = 'chat_id';
    end if;
    return released;
end $$;
