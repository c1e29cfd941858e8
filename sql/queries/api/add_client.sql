-- Adds a client, or returns the one that has the id: `created` says which.
-- Two of these at once: the second inserts nothing. It may not see the first one's row yet, because its snapshot is
-- older; then it returns no row and has to be run again.
with added as (
    insert into clients (client_id, username, location, store_id, xmpp_jid)
    values (:client_id, :username, :location, :store_id, :xmpp_jid)
    on conflict do nothing
    returning *
)
select true as created, added.* from added
union all
select false, cl.* from clients cl where cl.client_id = :client_id and not exists (select from added)
