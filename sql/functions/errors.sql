-- The errors of these functions. REST, RabbitMQ, XMPP and the command line translate them in sql/errors.py.
--
--   ST403  not allowed            \
--   ST404  does not exist          >  the text says what, COLUMN names the field
--   ST409  in the way of its state /
--   ST001  undoes a dry run; never leaves the database

create or replace function refuse_unknown(kind text, id bigint) returns void
language plpgsql immutable as $$
begin
    raise 'there is no % %', kind, id using errcode = 'ST404', column = kind || '_id';
end $$;

-- Raises ST404 for a store that does not exist.
create or replace function check_store(store_id integer) returns void
language plpgsql stable as $$
begin
    if not exists (select from stores s where s.store_id = check_store.store_id) then
        perform refuse_unknown('store', store_id);
    end if;
end $$;

-- Whether an error says nothing about the chat (disk full, lock timeout, shutdown, missing privilege): then nothing is
-- decided about the chat, and the caller tries again. By SQLSTATE class, appendix A of the PostgreSQL manual.
create or replace function is_server_fault(state text) returns boolean language sql immutable as $$
    select left(state, 2) in ('08', '0A', '25', '40', '42', '53', '54', '55', '57', '58', 'F0', 'XX')
$$;
