"""The relay process: carries the sent log out of the house, to webhooks, RabbitMQ and XMPP, and brings chats in.

`relay` watches the log and keeps a `channels.Channel` for each row of the table; `webhook`, `amqp` and `xmpp` are
what is on the far side, each imported only where there is one.
"""
