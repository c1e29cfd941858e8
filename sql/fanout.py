"""What the relay and the web nodes agree on where new chats come to the nodes from RabbitMQ (FANOUT=amqp).

The exchange is not the one that other programs bind to: with a queue of each web node there, no chat would ever be
known to have no taker. A message is JSON, one of
    {"after": position, "chats": [[position, store_id, chat], …]}   all of the log after a position, up to the last
    {"signals": [payload, …]}                                       as they are notified on chat_event
"""

EXCHANGE = "shoptalk.nodes"
NODE_PREFIX = "shoptalk.node."  # of the nodes' queues
