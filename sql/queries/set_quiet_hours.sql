-- Sets a client's quiet hours (timezone null: none) and moves what waits for the client. Raises ST404.
select set_quiet_hours(:client_id, :timezone, cast(:starts as time), cast(:ends as time))
