"""What answers look like, for the OpenAPI document; `sql.shapes` makes them from rows."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from sql.shapes import chat, instant, sent_chat

__all__ = ["chat", "instant", "sent_chat"]  # of rows; the rest of this module is their shapes for the document

State = Literal["held", "queued", "sent", "failed", "cancelled"]


class Client(BaseModel):
    """A client."""

    client_id: int
    username: str
    location: str
    xmpp_jid: str = Field(default="", description="left out where there is none")


class Operator(BaseModel):
    """An operator."""

    operator_id: int
    operator_name: str
    operator_group: str
    store_id: int
    xmpp_jid: str = Field(default="", description="left out where there is none")


class Chat(BaseModel):
    """A chat, with the payload as it is sent."""

    chat_id: int
    conversation_id: int
    seq: int = Field(description="its number in the conversation, from 1, without gaps")
    sender: Literal["client", "operator"]
    payload: str
    client_id: int
    operator_id: int
    utc_date: AwareDatetime = Field(description="when it was accepted")
    state: State
    release_at: AwareDatetime | None = Field(description="when a held chat may go")


class SentChat(Chat):
    """A chat, and when it was sent."""

    sent_at: AwareDatetime | None


class BriefChat(Chat):
    """A chat as the brief's startChat answers it."""

    message: str
    status: Literal[200]


class Accepted(Chat):
    """One chat of a list that was accepted; 200 where it had been before."""

    status: Literal[200, 201]


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    message: str
    errors: list[dict[str, str]] = Field(default=[], description="the fields at fault, each with its reason")


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
    """Whether each party has a stream open that says so."""

    client: bool
    operator: bool


class ConversationNow(Conversation):
    """A conversation, who is in it, and where its stream goes on from."""

    username: str
    operator_name: str
    timezone: str = Field(description="of its store, an IANA name")
    read: Marks = Field(description="up to which seq each party has read; 0: nothing")
    delivered: Marks = Field(
        description="up to which seq each party's XMPP client has said that it has them; 0: nothing"
    )
    present: Present
    cursor: str = Field(description="give it to GET /v1/stream as last_event_id: no gap and nothing twice")


class BriefConversation(BaseModel):
    """A conversation as the brief's getConversation answers it."""

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
    cursor: str = Field(description="give it to GET /v1/stream as last_event_id: no gap and nothing twice")


class ReadMark(BaseModel):
    """Up to which chat a party has read."""

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


class ExceptionDay(BaseModel):
    """A day with spans of its own; either `date` or `yearly` is there."""

    date: str = Field(default="", description="the one day")
    yearly: str = Field(default="", description="month and day of every year")
    name: str = ""
    spans: list[Span]


class Hours(BaseModel):
    """A store's hours; members that are not set are left out."""

    timezone: str
    weekly: dict[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], list[Span]]
    exceptions: list[ExceptionDay]
    pace_per_minute: int = Field(default=0, description="how many of the chats that were held go in a minute")
    away_notice: str = ""
    urgent: list[Literal["client", "operator"]] = []


class Instants(BaseModel):
    """The first and the last of some instants; null: none, or never."""

    first: AwareDatetime | None
    last: AwareDatetime | None


class Moved(BaseModel):
    """How many chats are held until another instant than before."""

    chats: int
    from_: Instants = Field(alias="from")
    to: Instants


class ChangedHours(Hours):
    """The hours as they are now (with dry_run: would be), and what moved (would move)."""

    dry_run: bool
    moved: Moved


class Reason(BaseModel):
    """Which day's hours decide, whether an exception made them, and the span that is open."""

    day: str
    weekday: str
    exception: dict[str, str] | None
    span: Span | None


class HoursExplained(BaseModel):
    """Whether a store is open, why, and what is next; null: nothing within eight years."""

    at: AwareDatetime
    timezone: str
    local_time: str
    open: bool
    paused_at: AwareDatetime | None = Field(description="since when nothing of it is sent, whatever its hours say")
    by: Reason
    next_opening: AwareDatetime | None
    next_closing: AwareDatetime | None


class QuietHours(BaseModel):
    """A client's night, in the client's zone."""

    timezone: str
    from_: str = Field(alias="from")
    to: str


class StateCount(BaseModel):
    """How many chats are in a state."""

    state: State
    chats: int
    oldest: AwareDatetime | None = Field(description="since when the one that is longest in it has been")
    next_release: AwareDatetime | None


class QueueSample(BaseModel):
    """How many chats were in each state; of sent: ever."""

    at: AwareDatetime
    held: int
    queued: int
    failed: int
    sent: int


class Queue(BaseModel):
    """The queue, state by state."""

    states: list[StateCount]
    history: list[QueueSample] = Field(default=[], description="of the last hour, where it was asked for")


class Channel(BaseModel):
    """Where sent chats are delivered outside, and how it does."""

    store_id: int | None = Field(description="null: it is for the chats of all stores")
    name: str
    kind: Literal["webhook", "amqp", "xmpp"]
    url: str | None = Field(description="of a webhook")
    state: Literal["active", "failing", "paused", "disabled"]
    cursor: int = Field(description="the position of the log up to which every chat is done with")
    behind: int = Field(description="positions of the log after it, of all stores")
    failures: int = Field(description="dead letters")
    attempts: int = Field(description="failed in a row")
    next_attempt_at: AwareDatetime | None
    last_error: str | None
    last_error_at: AwareDatetime | None


class ChannelWithSecret(Channel):
    """The same, with the secret if it was made here just now."""

    secret: str | None = None


class Channels(BaseModel):
    """Some channels."""

    channels: list[Channel]


class ChannelFailure(BaseModel):
    """A dead letter of a channel."""

    chat_id: int
    position: int
    reason: str
    attempts: int
    failed_at: AwareDatetime
    requeue_at: AwareDatetime | None = Field(description="it is delivered once more then")


class ChannelFailures(BaseModel):
    """Some dead letters of a channel, by position."""

    failures: list[ChannelFailure]


class ChannelAttempt(BaseModel):
    """One POST of a webhook."""

    chat_id: int
    attempted_at: AwareDatetime
    took_seconds: float
    status: int | None = Field(description="of the answer; null: none came")
    error: str | None = Field(description="null: delivered")


class ChannelAttempts(BaseModel):
    """The newest attempts, the newest first."""

    attempts: list[ChannelAttempt]


class Token(BaseModel):
    """A token, to be shown as `Authorization: Bearer …`, and until when."""

    token: str
    expires_at: AwareDatetime


class Health(BaseModel):
    """The process lives; ready: and reaches its database."""

    status: Literal["ok"]
