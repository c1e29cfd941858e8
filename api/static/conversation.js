/** One conversation as it is known here: its chats by seq, who has read how far, who is there, who types. */

export const OTHER = { client: "operator", operator: "client" };
const TYPING_MS = 5000; // a person shows as typing for so long after each sign of it

export class Conversation {
  chats = new Map(); // chat_id -> chat
  read = { client: 0, operator: 0 };
  present = {}; // by party; unknown until the server says so
  typingUntil = { client: 0, operator: 0 };
  timezone = "UTC";
  cursor = "";
  #meanwhile = null; // what came while a snapshot was on its way: chat_id -> chat

  constructor(conversation_id) {
    this.conversation_id = conversation_id;
  }

  /** Call before asking for a snapshot that load() will get. */
  expect() {
    this.#meanwhile = new Map();
  }

  /** Takes the snapshot, and what came while it was on its way, which may be newer. */
  load({ chat, read, ...others }) {
    Object.assign(this, others);
    this.chats = new Map(chat.map((one) => [one.chat_id, one]));
    const meanwhile = this.#meanwhile ?? new Map();
    this.#meanwhile = null;
    for (const one of meanwhile.values()) this.put(one);
    for (const reader in read) this.mark(reader, read[reader]);
  }

  /** A chat as the API or the stream gave it. What is sent stays sent, whatever an older answer says. */
  put(chat) {
    const known = this.chats.get(chat.chat_id);
    if (known?.state === "sent" && chat.state !== "sent") return;
    const whole = { ...known, ...chat };
    this.chats.set(chat.chat_id, whole);
    this.#meanwhile?.set(chat.chat_id, whole);
    if (whole.state === "sent") this.typingUntil[whole.sender] = 0;
  }

  mark(reader, seq) {
    this.read[reader] = Math.max(this.read[reader], seq);
  }

  types(party) {
    this.typingUntil[party] = Date.now() + TYPING_MS;
  }

  /** Milliseconds that the party still shows as typing; 0: it does not. */
  typing(party) {
    return Math.max(0, this.typingUntil[party] - Date.now());
  }

  /** The chats that `party` is to see, in order: its own in every state, the other's once they are sent. */
  seenBy(party) {
    const all = [...this.chats.values()].sort((a, b) => a.seq - b.seq);
    // An operator also sees what waits for the store to open; a client does not get to see it early.
    return party === "operator" ? all : all.filter((chat) => chat.sender === party || chat.state === "sent");
  }

  /** The seq up to which `party` can have read: that of the other's last sent chat. */
  readable(party) {
    const seqs = [...this.chats.values()].filter((chat) => chat.state === "sent" && chat.sender !== party);
    return Math.max(0, ...seqs.map((chat) => chat.seq));
  }

  unread(party) {
    const unread = (chat) => chat.state === "sent" && chat.sender !== party && chat.seq > this.read[party];
    return [...this.chats.values()].filter(unread).length;
  }
}
