"""The tables and views for queries that are built with SQLAlchemy; schema.sql creates them."""

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Table, Text

metadata = MetaData()

stores = Table("stores", metadata, Column("store_id", Integer, primary_key=True))

operators = Table("operators", metadata, Column("operator_id", Integer, primary_key=True), Column("store_id", Integer))

conversations = Table(
    "conversations",
    metadata,
    Column("conversation_id", Integer, primary_key=True),
    Column("client_id", Integer),
    Column("operator_id", Integer),
    Column("store_id", Integer),
    Column("operator_group", Text),
    Column("last_seq", Integer),
)

chats = Table(
    "chats",
    metadata,
    Column("chat_id", BigInteger, primary_key=True),
    Column("conversation_id", Integer),
    Column("seq", Integer),
    Column("sender", Text),
    Column("payload", Text),
    Column("client_id", Integer),
    Column("operator_id", Integer),
    Column("created_at", DateTime(timezone=True)),
)

chat_states = Table(
    "chat_states",
    metadata,
    Column("chat_id", BigInteger, primary_key=True),
    Column("conversation_id", Integer),
    Column("seq", Integer),
    Column("state", Text),
    Column("release_at", DateTime(timezone=True)),
    Column("sent_at", DateTime(timezone=True)),
)
