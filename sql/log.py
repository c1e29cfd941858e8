"""Logging: each line is one event with its name and fields. All events and their meanings are declared here.

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
    "started": (INFO, "The process is running."),
    "stopped": (INFO, "The process stopped on request."),
    "schema_installed": (INFO, "The database was empty; the schema was installed."),
    "functions_differ": (WARNING, "The database has other functions than this program: run `shoptalk migrate`."),
    "migrated": (INFO, "The schema was upgraded."),
    "functions_installed": (INFO, "The functions, views, triggers and grants were installed."),
    "migration_put_off": (WARNING, "A table is in use; the upgrade will be retried."),
    "waiting_for_database": (WARNING, "The database cannot be reached; the process waits for up to a minute."),
    "database_trouble": (WARNING, "A statement failed for a reason unrelated to any chat; it will be retried."),
    "metrics_unavailable": (ERROR, "Cannot bind the metrics port; the process runs without metrics."),
    # The worker.
    "listening": (INFO, "The worker has its LISTEN connection."),
    "listener_lost": (WARNING, "The LISTEN connection was lost and is being reopened; the worker polls meanwhile."),
    "sending_failed": (WARNING, "Sending a chat failed; it will be retried, and its conversation waits."),
    "chat_failed": (ERROR, "Sending a chat failed for the fifth time; it is now a dead letter, see chat_failures."),
    "keeping_hours_failed": (WARNING, "Checking the stores' hours failed; the next check is in a minute."),
    "sampling_failed": (WARNING, "Sampling the queue failed; the next sample is in 30 s."),
    "pruned": (INFO, "Removed chats that were sent or cancelled more than SHOPTALK_KEEP_DAYS ago."),
    "pruning_failed": (WARNING, "Removing old chats failed; it will be retried in five minutes."),
    # Web.
    "database_unavailable": (WARNING, "A request was answered 503."),
    "feed_lost": (WARNING, "Web lost its LISTEN connection or could not read the log; streams wait until it can."),
    "feed_failed": (ERROR, "Internal error while handing out sent chats; the streams continue from where they are."),
    "feed_refused": (WARNING, "Ignored a RabbitMQ message that the relay did not publish."),
    "signal_refused": (WARNING, "Ignored a malformed notification on chat_event."),
    "signals_lost": (WARNING, "Typing, read marks or changes could not be sent to the open pages."),
    "presence_not_published": (WARNING, "Publishing presence failed; will retry."),
    # The relay.
    "delivery_failed": (WARNING, "A receiver cannot take chats now; they will be retried, or the channel is disabled."),
    "chat_refused": (WARNING, "A receiver rejected a chat for good; it is now a dead letter of the channel."),
    "lease_lost": (WARNING, "Another relay has the channel now, and repeats the deliveries that were on their way."),
    "channel_failed": (ERROR, "Internal error while working on a channel; it will be retried."),
    "channel_ended": (ERROR, "The same; the channel rests until it is changed or the relay restarts."),
    "fanout_began": (INFO, "This relay now feeds the web nodes through RabbitMQ."),
    "fanout_lost": (WARNING, "The fan-out lost the database or the broker and restarts; the nodes read the log."),
    "inbound_lost": (WARNING, "RabbitMQ or its queue of inbound chats is unavailable; will retry."),
    "inbound_failed": (ERROR, "Internal error while accepting chats from RabbitMQ; outgoing chats continue."),
    "inbound_waits": (WARNING, "Chats from RabbitMQ wait for the database; they are not acknowledged before."),
    "inbound_refused": (WARNING, "Rejected an inbound RabbitMQ message; it was dead-lettered."),
    "connected": (INFO, "The XMPP server has accepted the component."),
    "message_not_taken": (
        WARNING,
        "The database could not accept a chat from XMPP; its sender gets an error and may retry.",
    ),
    "message_trouble": (WARNING, "The same, while answering a stanza."),
    "message_failed": (ERROR, "Internal error while accepting a stanza; the others are accepted meanwhile."),
}

PLAIN = re.compile(r'[^\s"=\\]+')


class Log:
    """Logs events: `log("listening")`, `log("feed_lost", reason=error)`. Raises KeyError for an unknown event."""

    def __init__(self, part: str) -> None:
        self._log = logging.getLogger(f"shoptalk.{part}")

    def __call__(self, event: str, /, *, traceback: bool = False, **fields: object) -> None:
        """Logs one line. Of an exception in a field only the first line; `traceback` adds the current exception's."""
        self._log.log(EVENTS[event][0], event, extra={"fields": fields}, exc_info=traceback)


class Lines(logging.Formatter):
    """The two formats. Lines of gunicorn and libraries have the same format, with their text."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        ours = getattr(record, "fields", None)
        fields = {name: _format_value(value) for name, value in (ours or {}).items()}
        if self._as_json:
            at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
            line = {"at": at, "level": record.levelname, "logger": record.name}
            line |= {"event": record.getMessage()} if ours is not None else {"message": record.getMessage()}
            if record.exc_info:
                fields["traceback"] = self.formatException(record.exc_info)
            return json.dumps(line | fields)
        words = [record.levelname, record.name, record.getMessage()]
        words += [f"{name}={_quote(value)}" for name, value in fields.items()]
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return (" ".join(words) + trace).replace("\n", "\n    ")  # indented, so that no text can look like a log line


def configure() -> None:
    """Sends the log to standard error, in the format that SHOPTALK_LOG selects. Raises BadSetting."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    logging.basicConfig(level=INFO, handlers=[handler])
    logging.getLogger("apscheduler").setLevel(WARNING)


def formatter() -> Lines:
    """The formatter that SHOPTALK_LOG selects. Raises BadSetting."""
    style = os.environ.get("SHOPTALK_LOG") or "text"
    if style not in ("text", "json"):
        raise BadSetting(f"SHOPTALK_LOG={style}: expected text or json")
    return Lines(style == "json")


def _format_value(value: object) -> object:
    if isinstance(value, BaseException):
        return (str(value).strip().splitlines() or [type(value).__name__])[0]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _quote(value: object) -> str:
    """As one word, so that no text can look like another field or line."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    printable = text.isprintable()  # else it may break the line or move a terminal's cursor
    return text if printable and PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not printable)
