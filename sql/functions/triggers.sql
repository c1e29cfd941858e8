-- The triggers, beside the tables: a change of hours moves held chats, an enqueued chat wakes an idle worker, a changed
-- channel notifies the relays.

create or replace trigger stores_timezone_changed before update of timezone, paused_at on stores
    for each row execute function forget_opening_period();

create or replace trigger store_hours_changed after insert or update or delete on store_hours
    for each row execute function forget_opening_period();

create or replace trigger store_exceptions_changed after insert or update or delete on store_exceptions
    for each row execute function forget_opening_period();

create or replace trigger store_exception_spans_changed after insert or update or delete on store_exception_spans
    for each row execute function forget_opening_period();

-- PostgreSQL has no `create or replace` for constraint triggers: to change this one, drop it in an upgrade first.
do $$
begin
    if not exists (select from pg_trigger t
                    where t.tgrelid = 'stores'::regclass and t.tgname = 'stores_hours_changed') then
        create constraint trigger stores_hours_changed after update on stores deferrable initially deferred
            for each row when (new.closes_at = '-infinity') execute function hours_changed();
    end if;
end $$;

create or replace trigger chat_queue_wakeup before insert on chat_queue
    for each row when (new.held_since is null) execute function wake_idle_worker();

create or replace trigger channels_changed
    after insert or delete or update of kind, settings, paused_at, disabled_at on channels
    for each statement execute function notify_channels_changed();
