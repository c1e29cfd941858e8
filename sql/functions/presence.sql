-- Presence and the marks of a conversation: who has a stream open, and up to where each party has read and received it.

-- Marks: read and delivered ---------------------------------------------------------------------------------

-- Marks the conversation as read by the party up to that chat. Cumulative: an older mark changes nothing. Returns the
-- mark that stands, and whether it moved. Raises ST404 for an unknown conversation, ST409 for a chat that it does not
-- have.
create or replace function mark_read(
    conversation_id integer, party text, seq integer, out marked integer, out moved boolean)
language plpgsql volatile as $$
declare
    conversation conversations;
begin
    select * into conversation from conversations cv where cv.conversation_id = mark_read.conversation_id;
    if not found then
        perform refuse_unknown('conversation', conversation_id);
    end if;
    if seq > conversation.last_seq then
        raise 'conversation % has only % chats', conversation_id, conversation.last_seq
            using errcode = 'ST409', column = 'seq';
    end if;
    insert into read_marks as m (conversation_id, party, seq)
    values (mark_read.conversation_id, mark_read.party, mark_read.seq)
    on conflict on constraint read_marks_pkey do update set seq = excluded.seq where m.seq < excluded.seq
    returning m.seq into marked;
    moved := found;
    if not moved then
        select m.seq into marked from read_marks m
         where m.conversation_id = mark_read.conversation_id and m.party = mark_read.party;
    end if;
end $$;

-- Records that the recipient's device has the chat, and so every chat before it, and tells open pages. Does nothing
-- where that was known, or where the JID is not the recipient's.
create or replace function mark_delivered(conversation_id integer, chat_id bigint, xmpp_jid text) returns void
language plpgsql volatile as $$
declare
    conversation conversations;
    recipient text;
    delivered_seq integer;
begin
    select case ch.sender when 'client' then 'operator' else 'client' end, ch.seq into recipient, delivered_seq
      from chats ch join sent_log l on l.conversation_id = ch.conversation_id and l.seq = ch.seq
     where ch.chat_id = mark_delivered.chat_id and ch.conversation_id = mark_delivered.conversation_id
       and recipient_jid(ch) = mark_delivered.xmpp_jid;
    if not found then
        return;
    end if;
    insert into delivered_marks as m (conversation_id, party, seq)
    values (mark_delivered.conversation_id, recipient, delivered_seq)
    on conflict on constraint delivered_marks_pkey do update set seq = excluded.seq where m.seq < excluded.seq;
    if not found then
        return;
    end if;
    select * into conversation from conversations cv where cv.conversation_id = mark_delivered.conversation_id;
    perform notify_event('delivered', conversation, jsonb_build_object(
        'conversation_id', conversation_id, 'party', recipient, 'seq', delivered_seq));
end $$;


-- Presence --------------------------------------------------------------------------------------------------

-- A web process that has not reported since this instant no longer counts.
create or replace function presence_cutoff() returns timestamptz
language sql stable as $$ select clock_timestamp() - interval '30 seconds' $$;

-- The parties present in the conversation, each with the kind of stream through which it is, as 'party:scope'.
create or replace function present_in(conversation conversations) returns text[]
language sql stable as $$
    select coalesce(array_agg(t.party || ':' || t.scope), '{}')
      from (values ('conversation_id', conversation.conversation_id, 'client'),
                   ('conversation_id', conversation.conversation_id, 'operator'),
                   ('client_id', conversation.client_id, 'client'),
                   ('operator_id', conversation.operator_id, 'operator'),
                   ('store_id', conversation.store_id, 'operator')) t(scope, scope_id, party)
     where (select true from presence pr join web_processes w using (process)
             where pr.scope = t.scope and pr.scope_id = t.scope_id and pr.party = t.party
               and w.seen_at > presence_cutoff() limit 1)
$$;

-- Writes down which streams were opened and closed in a process, and forgets dead processes. Returns the changes: who
-- is present now and was not before, and the reverse.
create or replace function change_presence(process text, opened jsonb, closed jsonb)
returns table (scope text, scope_id integer, party text, present boolean)
language plpgsql volatile as $$
begin
    return query
    with dead as (
        delete from web_processes w where w.seen_at <= presence_cutoff() returning w.process
    ), removed as (
        delete from presence pr
         where pr.process in (select dead.process from dead)
            or pr.process = change_presence.process
               and (pr.scope, pr.scope_id, pr.party) in (
                   select t.scope, t.scope_id, t.party
                     from jsonb_to_recordset(closed) t(scope text, scope_id integer, party text))
        returning pr.*
    ), added as (
        insert into presence as pr
        select t.scope, t.scope_id, t.party, change_presence.process
          from jsonb_to_recordset(opened) t(scope text, scope_id integer, party text)
        on conflict do nothing
        returning pr.*
    )
    select a.scope, a.scope_id, a.party, true
      from added a
      left join presence before on (before.scope, before.scope_id, before.party) = (a.scope, a.scope_id, a.party)
     where before.process is null
    union all
    select distinct r.scope, r.scope_id, r.party, false
      from removed r
     where not exists (select from added a where (a.scope, a.scope_id, a.party) = (r.scope, r.scope_id, r.party))
       and not exists (select from presence pr
                        where (pr.scope, pr.scope_id, pr.party) = (r.scope, r.scope_id, r.party)
                          -- Compared with pr alone and not with r: so removed is hashed, not scanned for each row.
                          and not exists (select from removed t
                                           where (t.scope, t.scope_id, t.party, t.process)
                                               = (pr.scope, pr.scope_id, pr.party, pr.process)));
end $$;

-- The signal of one such change: what it says, and to which streams it goes.
create or replace function presence_signal(scope text, scope_id integer, party text, present boolean) returns json
language plpgsql stable as $$
declare
    conversation conversations;
    operator operators;
begin
    if scope = 'conversation_id' then
        select * into conversation from conversations cv where cv.conversation_id = scope_id;
    elsif scope = 'operator_id' then
        select * into operator from operators o where o.operator_id = scope_id;
    end if;
    return json_build_object(
        'event', 'presence', 'scope', json_build_array(scope, scope_id),
        'data', json_build_object(
            'conversation_id', conversation.conversation_id, 'party', party, 'present', present,
            'id', case when party = 'client' then coalesce(conversation.client_id, scope_id)
                       when scope <> 'store_id' then coalesce(conversation.operator_id, scope_id) end),
        'to', json_strip_nulls(json_build_object(
            'conversation_id', conversation.conversation_id,
            'client_id', coalesce(conversation.client_id, case when scope = 'client_id' then scope_id end),
            'operator_id', coalesce(conversation.operator_id, operator.operator_id),
            'store_id', coalesce(conversation.store_id, operator.store_id,
                                 case when scope = 'store_id' then scope_id end))));
end $$;

-- A web process reports that it is alive, and which streams were opened (came) and closed (gone) in it, both as lists
-- of {scope, scope_id, party}. Notifies the web processes of whose presence that changes. One call at a time: otherwise
-- one party's last closed stream and its newly opened one, in two processes, could miss each other.
create or replace function keep_presence(process text, came jsonb, gone jsonb) returns void
language plpgsql volatile as $$
begin
    perform pg_advisory_xact_lock(presence_lock());
    insert into web_processes values (keep_presence.process, clock_timestamp())
    on conflict on constraint web_processes_pkey do update set seen_at = excluded.seen_at;
    perform pg_notify('chat_event', presence_signal(c.scope, c.scope_id, c.party, c.present)::text)
       from change_presence(keep_presence.process, came, gone) c;
end $$;
