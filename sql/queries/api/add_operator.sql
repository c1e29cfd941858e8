-- Adds an operator, and its store with the default hours if the store is new; or returns the operator that has the id:
-- `created` says which. Two of these at once: as in add_client.sql.
with new_store as (
    select add_store(:store_id, :timezone, :opens, :closes)
     where not exists (select from operators o where o.operator_id = :operator_id)
), added as (
    insert into operators (operator_id, operator_name, operator_group, store_id, xmpp_jid)
    select :operator_id, :operator_name, :operator_group, :store_id, :xmpp_jid
      from (select count(*) from new_store) store_first  -- PostgreSQL does not run a CTE whose rows are not read
    on conflict do nothing
    returning *
)
select true as created, added.* from added
union all
select false, o.* from operators o where o.operator_id = :operator_id and not exists (select from added)
