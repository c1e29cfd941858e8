"""The relay process: carries the sent log out of the house, to the stores' webhooks.

`relay` watches the log and keeps a `channels.Channel` for each row of the table; `webhook` is what is on the far
side, imported only where there is one.
"""
