"""From the sent log, or RabbitMQ, to the open streams."""
