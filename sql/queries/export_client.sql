-- All that there is of a client. Raises ST404.
select export_client(:client_id)
