-- Adds an operator, and its store with the default hours if that is new; or answers the operator that
-- has the id: `created` says which. Raced as add_client.sql is.
with new_store as (
    select add_store(:store_id, :timezone, :opens, :closes)
     where not exists (select from operators where operator_id = :operator_id)
), added as (
    insert into operators (operator_id, operator_name, operator_group, store_id, xmpp_jid)
    select :operator_id, :operator_name, :operator_group, :store_id, :xmpp_jid
      from (select count(*) from new_store) store_first  -- what nobody reads is not done
    on conflict do nothing
    returning *
)
select true as created, added.* from added
union all
select false, o.* from operators o where o.operator_id = :operator_id and not exists (select from added)
