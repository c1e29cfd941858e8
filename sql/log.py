"""Every log line of ours: one event a line, by its name, and its fields. What each event means stands here, once.

    WARNING shoptalk.worker sending_failed chat_id=12 conversation_id=7 attempts=2 reason="division by zero"

With SHOPTALK_LOG=json each line is a JSON object with the same members.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re

from sql.settings import BadSetting

INFO, WARNING, ERROR = logging.INFO, logging.WARNING, logging.ERROR

EVENTS = {
    # Every process.
    "started": (INFO, "The process works."),
    "stopped": (INFO, "It has ended as it was told to."),
    "schema_installed": (INFO, "The database was empty and has the schema now."),
    "migrated": (INFO, "The schema is one version newer."),
    "migration_put_off": (WARNING, "A table is in use; the migration is tried again after a while."),
    "waiting_for_database": (WARNING, "It cannot be reached; the process waits up to a minute before it gives up."),
    "database_trouble": (WARNING, "A statement failed, which says nothing about any chat; it is tried again."),
    "metrics_unavailable": (ERROR, "The port for the metrics cannot be had; the process goes on without them."),
    # The worker.
    "listening": (INFO, "The worker has its LISTEN connection."),
    "listener_lost": (WARNING, "It has lost it and makes it anew; meanwhile it looks by itself."),
    "sending_failed": (WARNING, "Sending a chat raised; it is tried again after a while. Its conversation waits."),
    "chat_failed": (ERROR, "Sending it raised for the fifth time: a dead letter, see chat_failures."),
    "keeping_hours_failed": (WARNING, "The schedule's look at the stores' hours failed; the next is in a minute."),
    "sampling_failed": (WARNING, "The queue could not be sampled; the next is in 30 s."),
    "pruned": (INFO, "What was sent or cancelled longer ago than SHOPTALK_KEEP_DAYS is gone."),
    "pruning_failed": (WARNING, "Removing it failed; it is tried again in five minutes."),
    # Web.
    "database_unavailable": (WARNING, "A request was answered 503."),
    "feed_lost": (WARNING, "Web has lost its LISTEN connection or could not read the log; streams wait until it can."),
    "feed_failed": (ERROR, "A fault of ours in handing out what was sent; the streams go on from where they are."),
    "feed_refused": (WARNING, "RabbitMQ has brought web what is none of the relay's messages."),
    "signal_refused": (WARNING, "Somebody has rung chat_event with what is no signal."),
    "signals_lost": (WARNING, "Typing, read marks or changes could not be told to the open pages."),
    "presence_untold": (WARNING, "Who is there could not be told; it is tried again."),
    # The relay.
    "delivery_failed": (WARNING, "A far side cannot take chats now; tried again, or the channel is disabled."),
    "chat_refused": (WARNING, "A far side will never take this chat: a dead letter of the channel."),
    "lease_lost": (WARNING, "Another relay has the channel now, and delivers once more what was on its way."),
    "channel_failed": (ERROR, "A fault of ours in working on a channel; it is tried again."),
    "channel_ended": (ERROR, "The same, and work on it has ended until the channel changes or the relay restarts."),
    "fanout_began": (INFO, "This relay now feeds the web nodes through RabbitMQ."),
    "fanout_lost": (WARNING, "It has lost the database or the broker and begins anew; the nodes read the log."),
    "inbound_lost": (WARNING, "RabbitMQ or its queue of inbound chats cannot be had; it is tried again."),
    "inbound_failed": (ERROR, "A fault of ours in taking chats from RabbitMQ; what goes out goes on meanwhile."),
    "inbound_waits": (WARNING, "Chats from RabbitMQ wait for the database; they are not acknowledged before."),
    "inbound_refused": (WARNING, "A message from RabbitMQ is no chat that can be sent: among the dead letters there."),
    "connected": (INFO, "The XMPP server has let the component in."),
    "message_not_taken": (WARNING, "A chat from XMPP met trouble of the database; its sender is told to come again."),
    "message_trouble": (WARNING, "The same in answering a stanza."),
    "message_failed": (ERROR, "A fault of ours in taking in a stanza; the others are taken in meanwhile."),
}

PLAIN = re.compile(r'[^\s"=\\]+')


class Log:
    """Says events: `log("listening")`, `log("feed_lost", reason=error)`. KeyError for one that is not above."""

    def __init__(self, part: str) -> None:
        self._log = logging.getLogger(f"shoptalk.{part}")

    def __call__(self, event: str, /, *, traceback: bool = False, **fields: object) -> None:
        """One line. Of an exception as a field the first line is shown; `traceback` adds the one being handled."""
        self._log.log(EVENTS[event][0], event, extra={"fields": fields}, exc_info=traceback)


class Lines(logging.Formatter):
    """The two styles. What others log (gunicorn, libraries) is a line in the same style, with their text."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        ours = getattr(record, "fields", None)
        fields = {name: _shown(value) for name, value in (ours or {}).items()}
        if self._as_json:
            at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
            line = {"at": at, "level": record.levelname, "logger": record.name}
            line |= {"event": record.getMessage()} if ours is not None else {"message": record.getMessage()}
            if record.exc_info:
                fields["traceback"] = self.formatException(record.exc_info)
            return json.dumps(line | fields)
        words = [record.levelname, record.name, record.getMessage()]
        words += [f"{name}={_quoted(value)}" for name, value in fields.items()]
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return (" ".join(words) + trace).replace("\n", "\n    ")  # so that no text of theirs looks like a line of ours


def configure() -> None:
    """Writes all that is logged to standard error, in the style that SHOPTALK_LOG asks for. Raises BadSetting."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    logging.basicConfig(level=INFO, handlers=[handler])
    logging.getLogger("apscheduler").setLevel(WARNING)


def formatter() -> Lines:
    """The style that SHOPTALK_LOG asks for. Raises BadSetting."""
    style = os.environ.get("SHOPTALK_LOG") or "text"
    if style not in ("text", "json"):
        raise BadSetting(f"SHOPTALK_LOG={style}: expected text or json")
    return Lines(style == "json")


def _shown(value: object) -> object:
    if isinstance(value, BaseException):
        return (str(value).strip().splitlines() or [type(value).__name__])[0]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _quoted(value: object) -> str:
    """As one word: no text can make another field or another line."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    printable = text.isprintable()  # else: what may make a line, or move a terminal's cursor
    return text if printable and PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not printable)
