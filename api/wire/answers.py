"""The shapes of the answers, for the OpenAPI document; `sql.shapes` makes them from rows."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from sql.fields import WEEKDAYS
from sql.shapes import chat, instant, sent_chat

__all__ = ["chat", "instant", "sent_chat"]  # they make answers from rows

State = Literal["held", "queued", "sent", "failed", "cancelled"]


CURSOR = "pass it to GET /v1/stream as last_event_id: the stream continues without gap or repetition"


class Client(BaseModel):
    """A client."""

    client_id: int
    username: str
    location: str
    xmpp_jid: str = Field(default="", description="omitted if not set")


class Operator(BaseModel):
    """An operator."""

    operator_id: int
    operator_name: str
    operator_group: str
    store_id: int
    xmpp_jid: str = Field(default="", description="omitted if not set")


class Chat(BaseModel):
    """A chat, with its placeholders filled in."""

    chat_id: int
    conversation_id: int
    seq: int = Field(description="the chat's number in its conversation, from 1, without gaps")
    sender: Literal["client", "operator"]
    payload: str
    client_id: int
    operator_id: int
    utc_date: AwareDatetime = Field(description="when it was accepted")
    state: State
    release_at: AwareDatetime | None = Field(description="when a held chat is due")


class SentChat(Chat):
    """A chat, and when it was sent."""

    sent_at: AwareDatetime | None


class BriefChat(Chat):
    """A chat in the format of the brief's startChat."""

    message: str
    status: Literal[200]


class Accepted(Chat):
    """An accepted chat of a list; status 200 if it was accepted before."""

    status: Literal[200, 201]


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    message: str
    errors: list[dict[str, str]] = Field(default=[], description="the fields at fault, each with the reason")


class Conversation(BaseModel):
    """A conversation with all its chats in order."""

    conversation_id: int
    store_id: int
    operator_id: int
    client_id: int
    operator_group: str
    chat: list[Chat]


class Marks(BaseModel):
    """A number for each party."""

    client: int
    operator: int


class Present(BaseModel):
    """Whether each party is present: has a stream open that names it (?as=)."""

    client: bool
    operator: bool


class ConversationNow(Conversation):
    """A conversation, its parties, and the cursor from which its stream continues."""

    username: str
    operator_name: str
    timezone: str = Field(description="the store's time zone, an IANA name")
    read: Marks = Field(description="each party has read the chats up to this seq; 0: none")
    delivered: Marks = Field(
        description="each party's XMPP client has confirmed receipt of the chats up to this seq; 0: none"
    )
    present: Present
    cursor: str = Field(description=CURSOR)


class BriefConversation(BaseModel):
    """A conversation in the format of the brief's getConversation."""

    conversation: Conversation
    status: Literal[200]


class ChatPage(BaseModel):
    """Some chats of a conversation, in order; the Link header has the next page."""

    chat: list[Chat]


class ListedConversation(BaseModel):
    """A conversation in a list, with its last chat."""

    conversation_id: int
    store_id: int
    client_id: int
    username: str
    operator_id: int
    operator_name: str
    operator_group: str
    read: Marks
    unread: Marks = Field(description="the other party's sent chats above its mark, counted up to 100")
    last_chat: Chat


class ConversationList(BaseModel):
    """Conversations, newest activity first."""

    conversations: list[ListedConversation]
    cursor: str = Field(description=CURSOR)


class ReadMark(BaseModel):
    """A party's read mark."""

    conversation_id: int
    reader: Literal["client", "operator"]
    seq: int


class Store(BaseModel):
    """A store and its hours now."""

    store_id: int
    timezone: str = Field(description="an IANA name")
    open: bool
    opens_at: AwareDatetime | None = Field(description="when it next opens; null: never, or it never closes")
    closes_at: AwareDatetime | None = Field(description="when it next closes; null: never")


Span = tuple[str, str]
Weekday = Literal[WEEKDAYS]  # type: ignore[valid-type]


class ExceptionDay(BaseModel):
    """A day with its own spans; either `date` or `yearly` is set."""

    date: str = Field(default="", description="a single day")
    yearly: str = Field(default="", description="month and day of every year")
    name: str = ""
    spans: list[Span]


class Hours(BaseModel):
    """A store's hours; members that are not set are omitted."""

    timezone: str
    weekly: dict[Weekday, list[Span]]
    exceptions: list[ExceptionDay]
    pace_per_minute: int = Field(default=0, description="held chats released per minute")
    away_notice: str = ""
    urgent: list[Literal["client", "operator"]] = []


class Instants(BaseModel):
    """The first and the last of some instants; null: there are none, or never."""

    first: AwareDatetime | None
    last: AwareDatetime | None


class Moved(BaseModel):
    """How many chats are now held until a different instant."""

    chats: int
    from_: Instants = Field(alias="from")
    to: Instants


class ChangedHours(Hours):
    """The hours after the change, and the chats that it moved; with dry_run: that it would move."""

    dry_run: bool
    moved: Moved


class Reason(BaseModel):
    """The day whose hours apply, the exception that sets them if any, and the open span."""

    day: str
    weekday: str
    exception: dict[str, str] | None
    span: Span | None


class HoursExplained(BaseModel):
    """Whether a store is open, why, and when it next opens and closes; null: not within eight years."""

    at: AwareDatetime
    timezone: str
    local_time: str
    open: bool
    paused_at: AwareDatetime | None = Field(description="since when the store is paused, whatever its hours")
    by: Reason
    next_opening: AwareDatetime | None
    next_closing: AwareDatetime | None


class QuietHours(BaseModel):
    """A client's quiet hours, in the client's time zone."""

    timezone: str
    from_: str = Field(alias="from")
    to: str


class StateCount(BaseModel):
    """How many chats are in a state."""

    state: State
    chats: int
    oldest: AwareDatetime | None = Field(description="when the oldest of them entered the state")
    next_release: AwareDatetime | None


class QueueSample(BaseModel):
    """How many chats were in each state; sent: in total."""

    at: AwareDatetime
    held: int
    queued: int
    failed: int
    sent: int


class Queue(BaseModel):
    """The queue, state by state."""

    states: list[StateCount]
    history: list[QueueSample] = Field(default=[], description="of the last hour, if requested")


class Channel(BaseModel):
    """A destination of sent chats outside Shoptalk, and its status."""

    store_id: int | None = Field(description="null: for the chats of all stores")
    name: str
    kind: Literal["webhook", "amqp", "xmpp"]
    url: str | None = Field(description="of a webhook")
    state: Literal["active", "failing", "paused", "disabled"]
    cursor: int = Field(description="every chat up to this position of the log is delivered or given up")
    behind: int = Field(description="how many positions of the log, of all stores, are after it")
    dead_letters: int = Field(description="number of dead letters")
    consecutive_failures: int
    next_attempt_at: AwareDatetime | None
    last_error: str | None
    last_error_at: AwareDatetime | None


class ChannelWithSecret(Channel):
    """A channel, with its secret if this request generated it."""

    secret: str | None = None


class Channels(BaseModel):
    """Some channels."""

    channels: list[Channel]


class DeadLetter(BaseModel):
    """A dead letter of a channel."""

    chat_id: int
    position: int
    reason: str
    attempts: int
    failed_at: AwareDatetime
    requeue_at: AwareDatetime | None = Field(description="when it is delivered again")


class DeadLetters(BaseModel):
    """Some dead letters of a channel, by position."""

    dead_letters: list[DeadLetter]


class ChannelAttempt(BaseModel):
    """One POST of a webhook."""

    chat_id: int
    attempted_at: AwareDatetime
    took_seconds: float
    status: int | None = Field(description="of the answer; null: there was none")
    error: str | None = Field(description="null: delivered")


class ChannelAttempts(BaseModel):
    """The newest attempts, newest first."""

    attempts: list[ChannelAttempt]


class Token(BaseModel):
    """A token, to be sent as `Authorization: Bearer …`, and when it expires."""

    token: str
    expires_at: AwareDatetime


class Health(BaseModel):
    """The process is alive; of /readyz: and reaches its database."""

    status: Literal["ok"]
