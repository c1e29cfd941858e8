-- Makes the channel of the whole system that this relay is configured for, if there is none.
select open_system_channel(:kind)
