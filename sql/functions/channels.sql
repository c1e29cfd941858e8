-- Channels: how relays deliver the log to the receivers outside, and how people set up, pause and repair a channel.

-- The trigger that wakes the relays when a channel changes.
create or replace function notify_channels_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('channels_changed', '');
    return null;
end $$;

-- The XMPP address to which a chat is delivered, that of the other party; null: the party has no address.
create or replace function recipient_jid(chat chats) returns text language sql stable as $$
    select case chat.sender
           when 'client' then (select o.xmpp_jid from operators o where o.operator_id = chat.operator_id)
           else (select cl.xmpp_jid from clients cl where cl.client_id = chat.client_id) end
$$;


-- What a relay calls --------------------------------------------------------------------------------------------

-- Creates the channel of the whole system that a relay is configured for, if it does not exist; its cursor starts at
-- the end of the log. It looks first, because even an insert of no rows would fire the trigger and wake the relays.
create or replace function open_system_channel(kind text) returns void
language plpgsql volatile as $$
begin
    if not exists (select from channels cn where cn.store_id is null and cn.name = open_system_channel.kind) then
        insert into channels (name, kind, cursor)
        values (open_system_channel.kind, open_system_channel.kind,
                coalesce((select max(l.position) from sent_log l), 0))
        on conflict do nothing;
    end if;
end $$;

-- Whether a relay holds the channel's lease. A lease that ends later than any lease can was written under another
-- clock, and does not count.
create or replace function is_leased(channel channels, at timestamptz) returns boolean language sql immutable as $$
    select channel.lease_until > at and channel.lease_until <= at + interval '5 minutes'
$$;

-- Leases the channel to the owner for that many seconds, with the next fencing token. No row: another relay has the
-- lease, or the channel is paused, disabled, or waiting for its next attempt.
create or replace function lease_channel(channel_id integer, owner text, seconds double precision)
returns table (token bigint, cursor bigint, consecutive_failures integer, settings jsonb) language sql volatile as $$
    update channels cn
       set token = cn.token + 1, leased_by = lease_channel.owner,
           lease_until = clock.at + lease_channel.seconds * interval '1 second'
      from (select shoptalk_now() as at) clock
     where cn.channel_id = lease_channel.channel_id and cn.paused_at is null and cn.disabled_at is null
       and cn.next_attempt_at <= clock.at and not is_leased(cn, clock.at)
    returning cn.token, cn.cursor, cn.consecutive_failures, cn.settings
$$;

-- Extends the lease. False: another relay has taken it, or the channel was paused, disabled or deleted.
create or replace function renew_lease(channel_id integer, token bigint, seconds double precision) returns boolean
language plpgsql volatile as $$
begin
    update channels cn set lease_until = shoptalk_now() + renew_lease.seconds * interval '1 second'
     where cn.channel_id = renew_lease.channel_id and cn.token = renew_lease.token
       and cn.paused_at is null and cn.disabled_at is null;
    return found;
end $$;

-- Returns the lease, so that another relay need not wait for its end.
create or replace function return_lease(channel_id integer, token bigint) returns void
language sql volatile as $$
    update channels cn set lease_until = '-infinity', leased_by = null
     where cn.channel_id = return_lease.channel_id and cn.token = return_lease.token
$$;

-- Writes a dead letter of a channel, or one more failed attempt of it. requeue_at: when it is delivered again
-- automatically, at most ten times; null: when a person requeues it.
create or replace function add_dead_letter(
    channel_id integer, log_position bigint, chat_id bigint, reason text, at timestamptz, requeue_at timestamptz)
returns void language sql volatile as $$
    insert into channel_dead_letters as d (channel_id, position, chat_id, reason, failed_at, requeue_at)
    values (add_dead_letter.channel_id, add_dead_letter.log_position, add_dead_letter.chat_id, add_dead_letter.reason,
            add_dead_letter.at, add_dead_letter.requeue_at)
    on conflict on constraint channel_dead_letters_pkey do update
        set reason = excluded.reason, attempts = d.attempts + 1, failed_at = excluded.failed_at,
            requeue_at = case when d.attempts < 10 then excluded.requeue_at end
$$;

-- Records the outcome of a batch, once the receiver has confirmed or rejected it. False, and nothing is recorded: the
-- lease has gone to another relay, which delivers the batch again.
--
-- upto: the new cursor. consecutive_failures: 0 after any success. done: the positions delivered.
-- refused: the chats rejected, [{position, chat_id, reason, requeue_seconds}]; see add_dead_letter().
-- tried: the attempts to keep for inspection, [{chat_id, ago_seconds, took_seconds, status, error}].
create or replace function settle_batch(
    channel_id integer, token bigint, upto bigint, consecutive_failures integer,
    done bigint[], refused jsonb, tried jsonb) returns boolean
language plpgsql volatile as $$
declare
    at timestamptz := shoptalk_now();
begin
    update channels cn
       set cursor = greatest(cn.cursor, upto), consecutive_failures = settle_batch.consecutive_failures
     where cn.channel_id = settle_batch.channel_id and cn.token = settle_batch.token;
    if not found then
        return false;
    end if;
    delete from channel_dead_letters d where d.channel_id = settle_batch.channel_id and d.position = any (done);
    perform add_dead_letter(settle_batch.channel_id, r.position, r.chat_id, r.reason, at,
                            at + r.requeue_seconds * interval '1 second')
       from jsonb_to_recordset(refused) as r(position bigint, chat_id bigint, reason text, requeue_seconds float8);
    insert into channel_attempts (channel_id, chat_id, attempted_at, took_seconds, status, error)
    select settle_batch.channel_id, t.chat_id, at - t.ago_seconds * interval '1 second',
           t.took_seconds, t.status, t.error
      from jsonb_to_recordset(tried)
           as t(chat_id bigint, ago_seconds float8, took_seconds real, status integer, error text);
    return true;
end $$;

-- Records that the receiver cannot take chats now, and returns the lease: no relay tries again for that many seconds,
-- or, with disable, until resume_channel().
create or replace function put_off_channel(
    channel_id integer, token bigint, reason text, seconds double precision, disable boolean) returns void
language sql volatile as $$
    update channels cn
       set consecutive_failures = cn.consecutive_failures + 1,
           last_error = put_off_channel.reason, last_error_at = clock.at,
           next_attempt_at = clock.at + put_off_channel.seconds * interval '1 second',
           disabled_at = case when put_off_channel.disable then clock.at end,
           lease_until = '-infinity', leased_by = null
      from (select shoptalk_now() as at) clock
     where cn.channel_id = put_off_channel.channel_id and cn.token = put_off_channel.token
$$;

-- Moves the cursors of channels that have nothing to deliver up to a position, so that a relay that starts later reads
-- less of the log. Where the token is still the same, no other relay has had the channel since this one looked.
create or replace function advance_idle_channels(channel_ids integer[], tokens bigint[], upto bigint) returns void
language sql volatile as $$
    update channels cn set cursor = advance_idle_channels.upto
      from unnest(channel_ids, tokens) as idle(channel_id, token)
     where cn.channel_id = idle.channel_id and cn.token = idle.token and cn.cursor < advance_idle_channels.upto
$$;

-- Removes all but the newest thousand attempts of each channel, and the ids of inbound messages older than a week.
create or replace function prune_channels() returns void
language sql volatile as $$
    delete from channel_attempts a
     using channels cn, lateral (select n.attempt_id from channel_attempts n where n.channel_id = cn.channel_id
                                  order by n.attempt_id desc offset 999 limit 1) oldest
     where a.channel_id = cn.channel_id and a.attempt_id < oldest.attempt_id;
    delete from inbound_messages i where i.received_at < shoptalk_now() - interval '7 days'
$$;


-- What people call ----------------------------------------------------------------------------------------------

-- These functions take the channel's name and its store, null for a channel of the whole system ('amqp', 'xmpp'). They
-- raise ST404 where there is no such channel.
create or replace function find_channel(name text, store_id integer) returns channels
language plpgsql stable as $$
declare
    channel channels;
begin
    select * into channel from channels cn
     where cn.name = find_channel.name and cn.store_id is not distinct from find_channel.store_id;
    if not found then
        raise 'there is no channel %', name using errcode = 'ST404', column = 'name';
    end if;
    return channel;
end $$;

-- The new settings of a webhook with the secret in them; null: the secret of its old settings. A secret that this
-- replaces stays with the instant of the change, because both sign for a day.
create or replace function with_secret(settings jsonb, old jsonb, secret text) returns jsonb
language sql stable as $$
    select settings
           || case when secret <> old ->> 'secret'
                   then jsonb_build_object('old_secret', old ->> 'secret', 'replaced_at', shoptalk_now())
                   else jsonb_strip_nulls(jsonb_build_object(
                            'old_secret', old ->> 'old_secret', 'replaced_at', old ->> 'replaced_at')) end
           || jsonb_build_object('secret', coalesce(secret, old ->> 'secret'))
$$;

-- Creates a store's webhook, or changes it: then it delivers at once, even if it was disabled or waiting for its next
-- attempt. secret null: the webhook keeps its secret, and a new webhook gets the generated one, `made`. from_start: a
-- new webhook delivers the whole log. Raises ST404 for an unknown store.
create or replace function put_webhook(
    store_id integer, name text, settings jsonb, secret text, made text, from_start boolean,
    out created boolean, out secret_now text)
language plpgsql volatile as $$
declare
    old jsonb;
    changed jsonb := settings || jsonb_build_object('secret', coalesce(secret, made));
begin
    perform check_store(store_id);
    insert into channels (store_id, name, kind, settings, cursor)
    values (put_webhook.store_id, put_webhook.name, 'webhook', changed,
            case when from_start then 0 else (select coalesce(max(l.position), 0) from sent_log l) end)
    on conflict on constraint channels_once do nothing;
    created := found;
    if not created then
        select cn.settings into old from channels cn
         where cn.store_id = put_webhook.store_id and cn.name = put_webhook.name
           for update;
        changed := with_secret(settings, old, secret);
        update channels cn
           set settings = changed, disabled_at = null, consecutive_failures = 0, next_attempt_at = '-infinity'
         where cn.store_id = put_webhook.store_id and cn.name = put_webhook.name;
    end if;
    secret_now := changed ->> 'secret';
end $$;

-- Pauses a channel until resume_channel(). A batch that is being delivered ends first.
create or replace function pause_channel(name text, store_id integer default null) returns void
language sql volatile as $$
    update channels cn set paused_at = coalesce(cn.paused_at, shoptalk_now())
     where cn.channel_id = (find_channel(pause_channel.name, pause_channel.store_id)).channel_id
$$;

-- Resumes a channel at once, whether it was paused, disabled, or waiting for its next attempt.
create or replace function resume_channel(name text, store_id integer default null) returns void
language sql volatile as $$
    update channels cn set paused_at = null, disabled_at = null, consecutive_failures = 0, next_attempt_at = '-infinity'
     where cn.channel_id = (find_channel(resume_channel.name, resume_channel.store_id)).channel_id
$$;

-- Sets the cursor to a position of the log: everything after it is delivered (0: the whole log, once more), and nothing
-- before it. The next token ends the lease of a relay that holds it now.
create or replace function replay_channel(name text, store_id integer, after bigint) returns void
language plpgsql volatile as $$
begin
    update channels cn
       set cursor = least(replay_channel.after, (select coalesce(max(l.position), 0) from sent_log l)),
           token = cn.token + 1, lease_until = '-infinity', leased_by = null,
           consecutive_failures = 0, next_attempt_at = '-infinity'
     where cn.channel_id = (find_channel(replay_channel.name, replay_channel.store_id)).channel_id;
    perform pg_notify('channels_changed', '');
end $$;

-- Delivers a dead letter of the channel once more, or all of them (chat_id null). Raises ST404 for a chat that is not a
-- dead letter of the channel.
create or replace function requeue_on_channel(name text, store_id integer, chat_id bigint default null) returns void
language plpgsql volatile as $$
begin
    update channel_dead_letters d set requeue_at = shoptalk_now()
     where d.channel_id = (find_channel(requeue_on_channel.name, requeue_on_channel.store_id)).channel_id
       and (requeue_on_channel.chat_id is null or d.chat_id = requeue_on_channel.chat_id);
    if not found and chat_id is not null then
        raise 'chat % is not a dead letter of channel %', chat_id, name using errcode = 'ST404', column = 'chat_id';
    end if;
    perform pg_notify('channels_changed', '');
end $$;

-- Gives up a chat on this channel: a dead letter is removed, and the chat on which a failing channel is stuck (the
-- first one after its cursor) is skipped. Raises ST404 for any other chat.
create or replace function skip_on_channel(name text, store_id integer, chat_id bigint) returns void
language plpgsql volatile as $$
declare
    channel channels := find_channel(name, store_id);
    first record;
begin
    delete from channel_dead_letters d where d.channel_id = channel.channel_id and d.chat_id = skip_on_channel.chat_id;
    if found then
        return;
    end if;
    select l.position, l.chat_id into first
      from sent_log l join conversations cv on cv.conversation_id = l.conversation_id
      join chats ch on ch.chat_id = l.chat_id
     where l.position > channel.cursor and (channel.store_id is null or cv.store_id = channel.store_id)
       and (channel.kind <> 'xmpp' or recipient_jid(ch) is not null)
     order by l.position limit 1;
    if first.chat_id is distinct from chat_id then
        raise 'chat % is neither a dead letter of channel % nor the next that it delivers', chat_id, name
            using errcode = 'ST404', column = 'chat_id';
    end if;
    perform replay_channel(name, store_id, first.position);
end $$;
