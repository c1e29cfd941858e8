/** The state of one conversation as this page knows it: chats, read positions, presence, typing. */

/**
 * @typedef {"client" | "operator"} Party
 *
 * @typedef {object} Chat as the API and the stream give it
 * @property {number} chat_id
 * @property {number} conversation_id
 * @property {number} seq
 * @property {Party} sender
 * @property {string} payload
 * @property {string} utc_date
 * @property {"held" | "queued" | "sent" | "failed" | "cancelled"} state
 * @property {string | null} [release_at]
 *
 * @typedef {object} Snapshot as GET /v1/conversations/<id> answers; this page uses these members
 * @property {Chat[]} chat
 * @property {Record<Party, number>} read the seq up to which each party has read
 * @property {Partial<Record<Party, boolean>>} [present]
 * @property {string} [timezone]
 * @property {string} [cursor]
 * @property {string} [username]
 * @property {string} [operator_name]
 * @property {number} [store_id]
 * @property {number} [client_id]
 * @property {number} [operator_id]
 */

/** @type {Record<Party, Party>} */
export const OTHER = { client: "operator", operator: "client" };
const TYPING_MS = 5000; // how long a party shows as typing after each typing event

export class Conversation {
  /** @type {Map<number, Chat>} by chat_id */
  chats = new Map();
  /** @type {Record<Party, number>} */
  read = { client: 0, operator: 0 };
  /** @type {Partial<Record<Party, boolean>>} unknown until the server says so */
  present = {};
  /** @type {Record<Party, number>} milliseconds since 1970 */
  typingUntil = { client: 0, operator: 0 };
  timezone = "UTC";
  cursor = "";
  /** @type {string | undefined} */
  username;
  /** @type {string | undefined} */
  operator_name;
  /** @type {number | undefined} */
  client_id;
  /** @type {number | undefined} */
  store_id;
  /** @type {Map<number, Chat> | null} chats that arrived since the pending snapshot was requested, by chat_id */
  #sinceRequest = null;

  /** @param {number} conversation_id */
  constructor(conversation_id) {
    this.conversation_id = conversation_id;
  }

  /** Call this before requesting the snapshot that applySnapshot() gets. */
  expectSnapshot() {
    this.#sinceRequest = new Map();
  }

  /**
   * Applies the snapshot, and then the chats that arrived since it was requested, which may be newer.
   * @param {Snapshot} snapshot
   */
  applySnapshot({ chat, read, ...others }) {
    Object.assign(this, others);
    this.chats = new Map(chat.map((one) => [one.chat_id, one]));
    const arrived = this.#sinceRequest?.values() ?? [];
    this.#sinceRequest = null;
    for (const one of arrived) this.putChat(one);
    this.markRead("client", read.client);
    this.markRead("operator", read.operator);
  }

  /**
   * Adds or updates a chat. A sent chat stays sent, even if an older answer arrives later.
   * @param {Chat} chat
   */
  putChat(chat) {
    const known = this.chats.get(chat.chat_id);
    if (known?.state === "sent" && chat.state !== "sent") return;
    const merged = { ...known, ...chat };
    this.chats.set(chat.chat_id, merged);
    this.#sinceRequest?.set(chat.chat_id, merged);
    if (merged.state === "sent") this.typingUntil[merged.sender] = 0;
  }

  /**
   * @param {Party} party
   * @param {number} seq
   */
  markRead(party, seq) {
    this.read[party] = Math.max(this.read[party], seq);
  }

  /** @param {Party} party */
  startTyping(party) {
    this.typingUntil[party] = Date.now() + TYPING_MS;
  }

  /**
   * Milliseconds for which the party still shows as typing; 0 if it does not.
   * @param {Party} party
   */
  typingLeft(party) {
    return Math.max(0, this.typingUntil[party] - Date.now());
  }

  /**
   * The chats that `party` may see, in order: its own in every state, and the other's sent chats. An operator also sees
   * the client's chats that are held until the store opens; a client does not see the operator's before that.
   * @param {Party} party
   */
  visibleTo(party) {
    const all = [...this.chats.values()].sort((a, b) => a.seq - b.seq);
    return party === "operator" ? all : all.filter((chat) => chat.sender === party || chat.state === "sent");
  }

  /**
   * The seq up to which `party` can have read: that of the other party's last sent chat.
   * @param {Party} party
   */
  lastReadable(party) {
    return Math.max(0, ...this.#sentTo(party).map((chat) => chat.seq));
  }

  /** @param {Party} party */
  countUnread(party) {
    return this.#sentTo(party).filter((chat) => chat.seq > this.read[party]).length;
  }

  /** @param {Party} party */
  #sentTo(party) {
    return [...this.chats.values()].filter((chat) => chat.state === "sent" && chat.sender !== party);
  }
}
