"""The relay process: delivers the sent log to webhooks, RabbitMQ and XMPP, and accepts chats from the latter two.

`relay` watches the log and keeps a `channels.Channel` for each row of the table `channels`. The transports are
`webhook`, `amqp` and `xmpp`; each is imported only where it is used.
"""
