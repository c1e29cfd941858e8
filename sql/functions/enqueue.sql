-- Accepting chats: enqueue_chat() takes one, enqueue_chats() a list; wake_idle_worker() notifies the worker.

-- The payload with {{ username }} and {{ operator }} filled in, in one pass: a name that itself reads "{{ operator }}"
-- stays as it is. It splits at one placeholder, fills in the other in each piece, and joins.
create or replace function fill_placeholders(template text, username text, operator_name text) returns text
language sql immutable as $$
    select string_agg(
               regexp_replace(piece, '\{\{\s*operator\s*\}\}', replace(operator_name, '\', '\\'), 'g'),
               username order by index)
      from regexp_split_to_table(template, '\{\{\s*username\s*\}\}') with ordinality as t(piece, index)
$$;

-- The text of a chat between the two, with their names in it.
create or replace function render(template text, client_id integer, operator_id integer) returns text
language plpgsql stable as $$
begin
    if template not like '%{{%' then
        return template;
    end if;
    return (select fill_placeholders(template, cl.username, o.operator_name)
              from clients cl, operators o
             where cl.client_id = render.client_id and o.operator_id = render.operator_id);
end $$;

-- What enqueue_chat() returns for an accepted chat.
create or replace function to_enqueued_chat(chat chats, is_repeat boolean) returns enqueued_chat
language sql immutable as $$
    select row (chat.chat_id, chat.conversation_id, chat.seq, chat.sender, chat.payload, chat.client_id, chat.operator_id,
                chat.created_at, case when chat.held_until is null then 'queued' else 'held' end,
                nullif(chat.held_until, 'infinity'), is_repeat)::enqueued_chat
$$;

-- The same, as what became of an item of a list.
create or replace function to_enqueued_item(index bigint, chat enqueued_chat) returns enqueued_item
language sql immutable as $$
    select row (index, chat.chat_id, chat.conversation_id, chat.seq, chat.sender, chat.payload, chat.client_id,
                chat.operator_id, chat.created_at, chat.state, chat.release_at, chat.is_repeat,
                null, null, null)::enqueued_item
$$;

-- The answer that the chat got when it was first accepted; all null when there is no such chat.
-- Raises ST409 when it was accepted with different content.
create or replace function repeat_of(
    conversation_id integer, client_id integer, operator_id integer,
    payload text, sender text, chat_id bigint) returns enqueued_chat
language plpgsql stable as $$
declare
    ch chats;
begin
    select * into ch from chats where chats.chat_id = repeat_of.chat_id;
    if not found then
        return null;
    end if;
    if (ch.conversation_id, ch.client_id, ch.operator_id, coalesce(ch.template, ch.payload), ch.sender)
       is distinct from
       (coalesce(conversation_id, ch.conversation_id), client_id, operator_id, payload, sender) then
        raise 'chat_id % was already used for a chat with different content', chat_id
            using errcode = 'ST409', column = 'chat_id';
    end if;
    return to_enqueued_chat(ch, true);
end $$;

-- Raises what is wrong with two parties that a conversation cannot have: ST404 for one that does not exist, ST409 where
-- both do but the conversation is between others.
create or replace function refuse_parties(conversation_id integer, client_id integer, operator_id integer)
returns void language plpgsql stable as $$
begin
    if not exists (select from clients cl where cl.client_id = refuse_parties.client_id) then
        perform refuse_unknown('client', client_id);
    end if;
    if not exists (select from operators o where o.operator_id = refuse_parties.operator_id) then
        perform refuse_unknown('operator', operator_id);
    end if;
    if conversation_id is not null then
        raise 'conversation % is between another client and operator', conversation_id
            using errcode = 'ST409', column = 'conversation_id';
    end if;
end $$;

-- The conversation with its next seq taken and its row locked until the transaction ends; created if it does not exist
-- (with a generated id if conversation_id is null). Raises ST404 and ST409 for its parties.
create or replace function next_in_conversation(conversation_id integer, client_id integer, operator_id integer)
returns conversations language plpgsql volatile set enable_seqscan = off as $$
declare
    conversation conversations;
begin
    loop
        update conversations cv set last_seq = cv.last_seq + 1, last_chat_at = shoptalk_now()
         where cv.conversation_id = next_in_conversation.conversation_id
        returning * into conversation;
        exit when found;
        -- Two first chats of one conversation: the second waits here for the first to commit, inserts nothing, and
        -- takes its number in the next round.
        insert into conversations (conversation_id, client_id, operator_id, store_id, operator_group, last_seq)
        select coalesce(next_in_conversation.conversation_id, nextval('generated_conversation_ids')),
               cl.client_id, o.operator_id, o.store_id, o.operator_group, 1
          from clients cl, operators o
         where cl.client_id = next_in_conversation.client_id
           and o.operator_id = next_in_conversation.operator_id
        on conflict do nothing
        returning * into conversation;
        exit when found;
        perform refuse_parties(null, client_id, operator_id);
    end loop;
    if (conversation.client_id, conversation.operator_id) is distinct from (client_id, operator_id) then
        perform refuse_parties(conversation.conversation_id, client_id, operator_id);
    end if;
    return conversation;
end $$;

-- Gives back the seq that next_in_conversation() has taken, and the conversation with it if it was created for it.
create or replace function return_seq(conversation conversations) returns void
language plpgsql volatile set enable_seqscan = off as $$
begin
    if conversation.last_seq = 1 then
        delete from conversations cv where cv.conversation_id = conversation.conversation_id;
    else
        update conversations cv set last_seq = cv.last_seq - 1 where cv.conversation_id = conversation.conversation_id;
    end if;
end $$;

-- The client whose quiet hours an operator's chat waits for; null: the client has none.
create or replace function quiet_for(client_id integer) returns integer
language plpgsql stable as $$
begin
    return (select qh.client_id from quiet_hours qh where qh.client_id = quiet_for.client_id);
end $$;

-- Makes what waits in the conversation due at the instant `at`, at any hour, so that an urgent chat can follow it at once
-- and the order holds. Raises ST403 where the store does not allow the sender to do so.
create or replace function expedite(conversation conversations, sender text, at timestamptz) returns void
language plpgsql volatile set enable_seqscan = off as $$
begin
    if not exists (select from stores s where s.store_id = conversation.store_id and sender = any (s.urgent_for)) then
        raise 'store % does not allow urgent chats from the %', conversation.store_id, sender
            using errcode = 'ST403', column = 'urgent';
    end if;
    update chat_queue q set due_at = case when q.paused then q.due_at else at end,
                            held_since = case when q.paused then q.held_since end, any_hour = true
     where q.conversation_id = conversation.conversation_id
       -- Rows that are expedited already stay untouched: otherwise each chat of an urgent list rewrites all before it.
       and not (q.any_hour and (q.paused or q.held_since is null and q.due_at <= at));
end $$;

-- When a chat of the conversation that is accepted at the instant `at` is due, and until when it is held (null: not at
-- all). The two differ while the store's hours are being changed: see hold_until().
create or replace function schedule_chat(
    conversation conversations, quiet_for integer, urgent boolean, at timestamptz,
    out due_at timestamptz, out held_until timestamptz)
language plpgsql volatile as $$
begin
    due_at := at;
    if conversation.paused_at is not null then
        held_until := 'infinity';
        due_at := 'infinity';
    elsif not urgent and (quiet_for is not null or next_release(conversation.store_id, at) is not null) then
        select h.due_at, h.held_until into due_at, held_until from hold_until(conversation.store_id, quiet_for, at) h;
    end if;
end $$;

-- Writes the chat under the seq, with the chat_id given or (null) a generated one. All null: another transaction has
-- taken the chat_id.
create or replace function insert_chat(
    conversation conversations, seq integer, sender text, template text, chat_id bigint,
    at timestamptz, held_until timestamptz) returns chats
language plpgsql volatile as $$
declare
    rendered text := render(template, conversation.client_id, conversation.operator_id);
    chat chats;
begin
    loop
        insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id,
                           created_at, template, held_until)
        values (coalesce(insert_chat.chat_id, nextval('generated_chat_ids')), conversation.conversation_id,
                insert_chat.seq, insert_chat.sender, rendered, conversation.client_id, conversation.operator_id,
                at, nullif(insert_chat.template, rendered), insert_chat.held_until)
        on conflict on constraint chats_pkey do nothing
        returning * into chat;
        exit when found or insert_chat.chat_id is not null;
    end loop;
    return chat;
end $$;

-- Puts rows into the queue; nothing else does. Returns how many, so that it can be assigned: see enqueue_chat().
create or replace function queue_chats(queued chat_queue[]) returns integer
language plpgsql volatile as $$
begin
    insert into chat_queue select * from unnest(queued);
    return cardinality(queued);
end $$;

-- The away notice that is due in a conversation of a closed store: once in a closed period, and only while nothing of the
-- conversation waits, since it goes before the chat that it answers. Null: none is due.
create or replace function away_notice(conversation conversations, at timestamptz) returns text
language plpgsql stable set enable_seqscan = off as $$
declare
    store stores;
    period record;
begin
    select * into store from stores s where s.store_id = conversation.store_id;
    if store.away_notice is null
       or exists (select from chat_queue q where q.conversation_id = conversation.conversation_id) then
        return null;
    end if;
    select * into period from opening_period(store.store_id, at);
    if at >= period.opens_at or period.opens_at = 'infinity' or conversation.away_notice_at >= period.closed_since then
        return null;
    end if;
    return regexp_replace(store.away_notice, '\{\{\s*opens_at\s*\}\}',
                          to_char(period.opens_at at time zone store.timezone, 'YYYY-MM-DD HH24:MI'), 'g');
end $$;

-- Accepts the away notice under the seq that the conversation took last, and takes the next seq for the chat that it
-- answers. It is sent at once.
create or replace function insert_away_notice(conversation conversations, notice text, at timestamptz) returns void
language plpgsql volatile as $$
declare
    chat chats := insert_chat(conversation, conversation.last_seq, 'operator', notice, null, at, null);
begin
    update conversations cv set last_seq = cv.last_seq + 1, away_notice_at = at
     where cv.conversation_id = conversation.conversation_id;
    perform queue_chats(array[row (
        at, null, chat.chat_id, chat.conversation_id, chat.seq, conversation.store_id, null, true, false)::chat_queue]);
end $$;

-- Accepts one chat in the caller's transaction; REST uses this same function. conversation_id null: a new conversation;
-- chat_id null: a generated id. The same chat_id with the same content again returns what the first call returned and
-- adds nothing. An urgent chat is sent at any hour.
--
-- Raises ST404 (unknown client or operator), ST409 (the chat_id has other content, the conversation other parties) and
-- ST403 (urgent, which the store does not allow), with the field in COLUMN; 23514 for values out of range.
create or replace function enqueue_chat(
    conversation_id integer, client_id integer, operator_id integer, payload text,
    sender text default 'client', chat_id bigint default null, urgent boolean default false) returns enqueued_chat
language plpgsql volatile set enable_seqscan = off as $$
declare
    repeated enqueued_chat;
    conversation conversations;
    at timestamptz;
    quiet_for integer;
    schedule record;
    notice text;
    chat chats;
    queued integer;
begin
    if chat_id is not null then
        repeated := repeat_of(conversation_id, client_id, operator_id, payload, sender, chat_id);
        if repeated.is_repeat then
            return repeated;
        end if;
    end if;
    conversation := next_in_conversation(conversation_id, client_id, operator_id);
    -- After the conversation is locked: the instants of its chats then follow their seq as long as the clock does.
    at := shoptalk_now();
    if urgent then
        perform expedite(conversation, sender, at);
    end if;
    if sender = 'operator' then
        quiet_for := quiet_for(client_id);
    end if;
    -- Steps are assigned, not selected or performed: plpgsql evaluates them without a statement, 2 to 15 µs less each.
    schedule := schedule_chat(conversation, quiet_for, coalesce(urgent, false), at);
    if sender = 'client' and schedule.held_until is not null and conversation.paused_at is null then
        notice := away_notice(conversation, at);
    end if;
    chat := insert_chat(conversation, conversation.last_seq + (notice is not null)::integer, sender, payload, chat_id,
                        at, schedule.held_until);
    if chat.chat_id is null then
        -- The same request twice at once: the other one was first.
        perform return_seq(conversation);
        return repeat_of(conversation_id, client_id, operator_id, payload, sender, chat_id);
    end if;
    if notice is not null then
        perform insert_away_notice(conversation, notice, at);
    end if;
    queued := queue_chats(array[row (
        schedule.due_at, case when schedule.held_until is not null then at end, chat.chat_id, chat.conversation_id,
        chat.seq, conversation.store_id, quiet_for, coalesce(urgent, false),
        conversation.paused_at is not null)::chat_queue]);
    return to_enqueued_chat(chat, false);
end $$;

-- The conversations of the list whose chats can be accepted all at once: the conversation exists, its parties are the
-- chats' own, and no chat needs a second look. These need one: a placeholder, an id that may be a repeat, an urgent
-- chat, a client with quiet hours, a paused conversation, and a closed store that keeps a pace, gives away notices, or
-- whose hours are being changed.
create or replace function plain_conversations(items chat_item[], at timestamptz) returns integer[]
language sql volatile set enable_seqscan = off as $$
    with named_stores as materialized (
        select s.store_id, (s.store_id in (select p.store_id from store_paces p) or s.away_notice is not null
                            or not pg_try_advisory_xact_lock_shared(hours_lock(), s.store_id & 63))
                           and next_release(s.store_id, at) is not null as is_special
          from stores s
         where s.store_id in (select cv.store_id from unnest(items) i join conversations cv using (conversation_id))
    )
    select array_agg(conversation_id)
      from (select i.conversation_id
              from unnest(items) i join conversations cv using (conversation_id) join named_stores s using (store_id)
             group by i.conversation_id
            having bool_and(i.client_id = cv.client_id and i.operator_id = cv.operator_id and cv.paused_at is null
                            and i.payload not like '%{{%' and not i.urgent and not s.is_special
                            and not exists (select from chats ch where ch.chat_id = i.chat_id)
                            and (i.sender <> 'operator' or not exists (
                                    select from quiet_hours qh where qh.client_id = i.client_id)))) plain
$$;

-- Accepts the chats of such conversations, whose rows the caller has locked, in one statement: five times as fast as one
-- by one. Raises 23505 where an id was taken in the meantime or occurs twice in the list.
create or replace function enqueue_plain(items chat_item[], plain integer[], at timestamptz) returns enqueued_item[]
language plpgsql volatile set enable_seqscan = off as $$
declare
    done enqueued_item[];
    queued chat_queue[];
begin
    with numbered as materialized (
        select i.index, coalesce(i.chat_id, nextval('generated_chat_ids')) as chat_id, i.conversation_id,
               (cv.last_seq + row_number() over (partition by cv.conversation_id order by i.index))::integer as seq,
               i.sender, i.payload, i.client_id, i.operator_id, cv.store_id
          from unnest(items) i join conversations cv using (conversation_id)
         where cv.conversation_id = any (plain)
    ), hours as materialized (
        select n.store_id, next_release(n.store_id, at) as held_until
          from (select distinct store_id from numbered) n
    ), held as materialized (
        select * from numbered join hours using (store_id)
    ), counted as (
        update conversations cv set last_seq = n.last, last_chat_at = at
          from (select conversation_id, max(seq) as last from numbered group by conversation_id) n
         where cv.conversation_id = n.conversation_id
    ), inserted as (
        insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id, created_at, held_until)
        select chat_id, conversation_id, seq, sender, payload, client_id, operator_id, at, held_until from held
    )
    select array_agg(row (index, chat_id, conversation_id, seq, sender, payload, client_id, operator_id, at,
                          case when held_until is null then 'queued' else 'held' end, nullif(held_until, 'infinity'),
                          false, null, null, null)::enqueued_item),
           array_agg(row (coalesce(held_until, at), case when held_until is not null then at end, chat_id,
                          conversation_id, seq, store_id, null, false, false)::chat_queue)
      into done, queued
      from held;
    perform queue_chats(queued);
    return done;
end $$;

-- Locks the list's conversations, accepts all at once what can be accepted so, and returns it. Two such calls take their
-- locks in one order, by conversation: hence only where every conversation named exists already.
create or replace function enqueue_together(items chat_item[]) returns enqueued_item[]
language plpgsql volatile as $$
declare
    named integer[] := array(select distinct i.conversation_id from unnest(items) i where i.conversation_id is not null);
    at timestamptz;
begin
    if (select count(*) from conversations cv where cv.conversation_id = any (named)) < cardinality(named) then
        return null;
    end if;
    perform from conversations cv where cv.conversation_id = any (named) order by cv.conversation_id for update;
    at := shoptalk_now();
    begin
        return enqueue_plain(items, plain_conversations(items, at), at);
    exception when others then
        if is_server_fault(sqlstate) then
            raise;
        end if;
        return null;  -- one of the chats is at fault: one by one, to find out which
    end;
end $$;

-- Accepts one chat of a list, or returns the error that it raised.
create or replace function enqueue_item(item chat_item) returns enqueued_item
language plpgsql volatile as $$
declare
    answer enqueued_item;
begin
    return to_enqueued_item(item.index, enqueue_chat(item.conversation_id, item.client_id, item.operator_id,
                                                     item.payload, item.sender, item.chat_id, item.urgent));
exception when others then
    if is_server_fault(sqlstate) then
        raise;
    end if;
    get stacked diagnostics answer.error_field = column_name, answer.error_reason = message_text;
    answer.index := item.index;
    answer.error_state := sqlstate;
    return answer;
end $$;

-- Accepts many chats, each on its own: one row each, with the accepted chat or with the error that enqueue_chat() raised
-- for it. The arrays are parallel. Whole conversations are accepted at once where that is possible, the rest one by one,
-- in the order of conversations so that two such calls do not deadlock.
create or replace function enqueue_chats(
    conversation_ids integer[], client_ids integer[], operator_ids integer[],
    payloads text[], senders text[], chat_ids bigint[], urgents boolean[] default null) returns setof enqueued_item
language plpgsql volatile as $$
declare
    items chat_item[];
    done enqueued_item[];
    item record;
begin
    select array_agg((i.conversation_id, i.client_id, i.operator_id, i.payload, i.sender, i.chat_id,
                      coalesce(urgents[i.index], false), i.index)::chat_item order by i.index) into items
      from unnest(conversation_ids, client_ids, operator_ids, payloads, senders, chat_ids) with ordinality
           as i(conversation_id, client_id, operator_id, payload, sender, chat_id, index);
    done := enqueue_together(items);
    return query select (d).* from unnest(done) d;
    for item in
        select i as chat from unnest(items) i
         where not exists (select from unnest(done) d where d.index = i.index)
         order by i.conversation_id, case when i.conversation_id is null then i.chat_id end, i.index
    loop
        return next enqueue_item(item.chat);
    end loop;
end $$;

-- The wake-up: NOTIFY chat_queued only while a worker is idle, because a committing NOTIFY takes a lock of the whole
-- cluster until after its flush. When every insert notified, a third of the single inserts per second remained.
--
-- To get the shared lock means that no worker is idle, and that none can become idle before this transaction has ended:
-- the worker takes the lock exclusively, looks at the queue once more, and only then waits. So no wake-up is lost, and the
-- lock of a worker that dies while idle dies with its session.
--
-- A trigger for each row, not for each statement: its WHEN skips held rows without a look into a transition table, which
-- cost each enqueue a tenth. PostgreSQL folds a transaction's further notifications into the first.
create or replace function wake_idle_worker() returns trigger
language plpgsql as $$
begin
    if not pg_try_advisory_xact_lock_shared(idle_lock()) then
        perform pg_notify('chat_queued', '');
    end if;
    return new;
end $$;
