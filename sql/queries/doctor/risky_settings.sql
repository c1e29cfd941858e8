-- Settings with which a crash loses or corrupts acknowledged chats, or that end idle listeners: of the whole server,
-- and of single roles and databases. The latter keep the spelling with which they were set.
with wrong (name, value, right_value) as (
    values ('fsync', 'off', 'on'), ('full_page_writes', 'off', 'on'), ('synchronous_commit', 'off', 'on'),
           ('zero_damaged_pages', 'on', 'off'), ('idle_session_timeout', null, '0')
), found as (
    select null as whose, s.name, s.setting as value,
           case s.source when 'command line' then format('start the server without %s on its command line', s.name)
                else format('alter system set %s = %s; select pg_reload_conf()', s.name, w.right_value) end as fix
      from pg_settings s
      join wrong w using (name)
     where s.source not in ('database', 'user', 'database user')  -- which follow below
    union all
    select concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname),
           split_part(c, '=', 1), split_part(c, '=', 2),
           case when r.rolname is null then coalesce('alter database ' || quote_ident(d.datname), 'alter role all')
                else format('alter role %I', r.rolname) || coalesce(' in database ' || quote_ident(d.datname), '') end
               || format(' reset %s', split_part(c, '=', 1))
      from pg_db_role_setting s
      left join pg_roles r on r.oid = s.setrole
      left join pg_database d on d.oid = s.setdatabase,
           unnest(s.setconfig) c
     where s.setdatabase = 0 or d.datname = current_database()
), spelled as (
    select f.*, case when f.name = 'idle_session_timeout' then regexp_replace(f.value, '^\s*0+\s*[a-z]*\s*$', '0')
                     when lower(f.value) in ('false', 'no', '0') then 'off'
                     when lower(f.value) in ('true', 'yes', '1') then 'on'
                     else lower(f.value) end as as_shown
      from found f
)
select f.whose, f.name, f.value, f.fix
  from spelled f
  join wrong w on w.name = f.name and (f.as_shown = w.value or w.value is null and f.as_shown <> '0')
 order by f.whose nulls first, f.name
