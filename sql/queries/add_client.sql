-- Adds a client, or answers the one that has the id: `created` says which.
-- Safe when raced: the loser inserts nothing. It may then not see the winner's row yet (its snapshot is
-- older), answers no row, and is to be run again.
with added as (
    insert into clients (client_id, username, location, store_id, xmpp_jid)
    values (:client_id, :username, :location, :store_id, :xmpp_jid)
    on conflict do nothing
    returning *
)
select true as created, added.* from added
union all
select false, c.* from clients c where c.client_id = :client_id and not exists (select from added)
