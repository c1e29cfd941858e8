-- A client's quiet hours; no row if the client has none.
select timezone, to_char(starts, 'HH24:MI') as starts, to_char(ends, 'HH24:MI') as ends
  from quiet_hours
 where client_id = :client_id
