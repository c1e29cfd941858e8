-- Inbound chats, from RabbitMQ and XMPP: accepted once, however often their messages are delivered.

-- The chat ids of inbound messages from a source: for the same message_id always the same, whenever it is delivered.
-- chat_ids: of the messages that bring their own. The arrays are parallel; the result is null where a message has
-- neither id.
create or replace function chats_of_messages(source text, message_ids text[], chat_ids bigint[] default null)
returns bigint[] language plpgsql volatile as $$
begin
    -- In one order, so that two callers with the same messages wait for each other and do not deadlock; the second then
    -- finds the rows that the first has committed.
    insert into inbound_messages (source, message_id, chat_id, received_at)
    select chats_of_messages.source, new.id, nextval('generated_chat_ids'), shoptalk_now()
      from (select distinct m.id from unnest(message_ids) as m(id) where m.id is not null order by m.id) new
    on conflict on constraint inbound_messages_pkey do nothing;
    return (select array_agg(coalesce(m.chat_id, i.chat_id) order by m.index)
              from unnest(message_ids, chat_ids) with ordinality as m(message_id, chat_id, index)
              left join inbound_messages i on i.source = chats_of_messages.source and i.message_id = m.message_id);
end $$;

-- Accepts chats from RabbitMQ: enqueue_chats(), with the message_id of each.
create or replace function enqueue_from_amqp(
    message_ids text[], conversation_ids integer[], client_ids integer[], operator_ids integer[],
    payloads text[], senders text[], chat_ids bigint[], urgents boolean[]) returns setof enqueued_item
language plpgsql volatile as $$
begin
    return query select * from enqueue_chats(
        conversation_ids, client_ids, operator_ids, payloads, senders,
        chats_of_messages('amqp', message_ids, chat_ids), urgents);
end $$;

-- Accepts a chat that a party wrote to its conversation's XMPP address: enqueue_chat(). message_id: the message's own
-- id, by which a redelivery is recognized; null: it has no id. Raises ST403 for an address that is not of a party, and
-- also where the conversation does not exist, so that strangers learn nothing.
create or replace function enqueue_from_xmpp(conversation_id integer, xmpp_jid text, message_id text, payload text)
returns enqueued_chat
language plpgsql volatile as $$
declare
    party record;
begin
    select cl.client_id, o.operator_id,
           case enqueue_from_xmpp.xmpp_jid when cl.xmpp_jid then 'client' when o.xmpp_jid then 'operator' end as sender
      into party
      from conversations cv join clients cl using (client_id) join operators o using (operator_id)
     where cv.conversation_id = enqueue_from_xmpp.conversation_id;
    if party.sender is null then
        raise 'you are not in conversation %', conversation_id using errcode = 'ST403', column = 'conversation_id';
    end if;
    return enqueue_chat(conversation_id, party.client_id, party.operator_id, payload, party.sender,
                        (chats_of_messages('xmpp', array[message_id]))[1]);
end $$;

-- Makes a chat a dead letter that bounced from its XMPP address after it had counted as delivered. Ignored unless the
-- bounce comes from the address to which the chat was delivered. requeue_seconds: after that time it is delivered
-- again, unless it was sent more than three days ago; null: never.
create or replace function record_bounce(
    conversation_id integer, chat_id bigint, xmpp_jid text, reason text, requeue_seconds double precision) returns void
language sql volatile as $$
    select add_dead_letter(
               cn.channel_id, l.position, ch.chat_id, record_bounce.reason, clock.at,
               case when l.sent_at > clock.at - interval '3 days'
                    then clock.at + record_bounce.requeue_seconds * interval '1 second' end)
      from chats ch join sent_log l on l.conversation_id = ch.conversation_id and l.seq = ch.seq
      join channels cn on cn.store_id is null and cn.kind = 'xmpp' and cn.cursor >= l.position,
           lateral (select shoptalk_now() as at) clock
     where ch.chat_id = record_bounce.chat_id and ch.conversation_id = record_bounce.conversation_id
       and recipient_jid(ch) = record_bounce.xmpp_jid
$$;
