"""The relay process: carries the sent log out of the house, to webhooks and XMPP, and brings chats in.

`relay` watches the log and keeps a `channels.Channel` for each row of the table; `webhook` and `xmpp` are
what is on the far side, each imported only where there is one.
"""
