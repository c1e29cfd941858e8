/** One open conversation on a page: its state, its thread, the field to write in; for a client or an operator. */

import { call, Refused } from "./api.js";
import { Conversation, OTHER } from "./conversation.js";
import { Composer } from "./composer.js";
import { announce, soon } from "./dom.js";
import { Outbox } from "./outbox.js";
import { Thread } from "./thread.js";
import { when } from "./time.js";

export class Talk {
  link = { name: "connecting" }; // the stream's state
  #on;
  #renders = soon(() => this.#render());
  #typingEnds = null;
  #marking = false;
  #watcher;
  #endSeen = false;
  #common;

  /** `parties`: {client_id, operator_id} if known; `on`: changed(talk), after whatever changed, accepted(chat), problem(text). */
  constructor(conversation_id, party, parties, on) {
    this.party = party;
    this.#on = on;
    this.conversation = new Conversation(conversation_id);
    const own = `${party}:${conversation_id}`;
    this.#common = { conversation_id, ...parties, sender: party };
    this.outbox = new Outbox(this.#common, { accepted: (chat) => this.#accepted(chat), changed: () => this.changed() });
    this.thread = new Thread(this);
    this.composer = new Composer(own, party === "operator" ? "Write a reply" : "Write a message", {
      send: (text) => { this.thread.toEnd(); this.outbox.add(text); },
      typing: () => this.#ignoring(call("POST", `${this.#path}/typing`, { sender: party })),
    });
    this.#watcher = new IntersectionObserver((entries) => {
      this.#endSeen = entries.at(-1).isIntersecting; // false too in a frame that is not shown
      this.markRead();
    });
    this.#watcher.observe(this.thread.end);
    document.addEventListener("visibilitychange", this.markRead);
  }

  get #path() {
    return `/v1/conversations/${this.conversation.conversation_id}`;
  }

  nameOf(party) {
    if (party === this.party) return "You";
    const { username, client_id, operator_name } = this.conversation;
    return party === "client" ? (username ?? `Client ${client_id ?? ""}`) : (operator_name ?? "The store");
  }

  /** Reads the conversation as it is now. Raises Refused 404 where it has not begun, and Unreachable. */
  async load({ opening = false } = {}) {
    this.conversation.expect();
    const { data } = await call("GET", this.#path);
    this.conversation.load(data);
    Object.assign(this.#common, { client_id: data.client_id, operator_id: data.operator_id });
    if (opening) this.thread.opened();
    this.outbox.drain();
    this.changed();
    this.markRead();
  }

  /** Takes an event of the stream that is about this conversation. */
  take(event, data) {
    const { conversation } = this;
    if (event === "chat") {
      const news = !conversation.chats.has(data.chat_id) && data.sender !== this.party;
      conversation.put(data);
      if (news) announce(`${this.nameOf(data.sender)}: ${data.payload}`);
    }
    if (event === "change") conversation.put(data);
    if (event === "read") conversation.mark(data.reader, data.seq);
    if (event === "presence") conversation.present[data.party] = data.present;
    if (event === "typing") conversation.types(data.sender);
    this.changed();
    this.markRead();
  }

  #accepted(chat) {
    this.conversation.put(chat);
    if (chat.state === "held") {
      const goes = chat.release_at && ` Your message goes at ${when(chat.release_at, this.conversation.timezone)}.`;
      announce(`The store is closed.${goes ?? ""}`);
    }
    this.#on.accepted(chat);
  }

  cancel = async (chat) => {
    await this.#change("DELETE", chat, undefined, "Cancelled");
    this.composer.focus();
  };

  /** Lets the person change the text of a chat that still waits. */
  edit = (chat) => {
    this.composer.edit(chat.payload, (payload) => this.#change("PATCH", chat, { payload }, "Changed"));
  };

  /** True: it is done. */
  async #change(method, chat, body, done) {
    let changed = false;
    try {
      const { data } = await call(method, `/v1/chats/${chat.chat_id}`, body);
      this.conversation.put(data);
      announce(done);
      changed = true;
    } catch (error) {
      this.#on.problem(error instanceof Refused ? error.message : "That did not work: no connection. Try again.");
      await this.#ignoring(this.load());
    }
    this.changed();
    return changed;
  }

  /** Says to the server how far this party has read: what is at the end, on a tab that is looked at. */
  markRead = async () => {
    const { conversation, party } = this;
    const seq = conversation.readable(party);
    const looked = this.#endSeen && document.visibilityState === "visible";
    if (!looked || this.#marking || seq <= conversation.read[party]) return;
    this.#marking = true;
    const before = conversation.read[party];
    conversation.mark(party, seq);
    this.changed();
    try {
      await call("PUT", `${this.#path}/read`, { reader: party, seq });
    } catch {
      conversation.read[party] = before; // said again at the next chat or after the connection is back
    }
    this.#marking = false;
    if (conversation.readable(party) > conversation.read[party] && conversation.read[party] === seq) this.markRead();
  };

  changed() {
    this.#renders();
    this.#on.changed(this);
  }

  #render() {
    this.thread.render();
    clearTimeout(this.#typingEnds);
    const left = this.conversation.typing(OTHER[this.party]);
    if (left) this.#typingEnds = setTimeout(() => this.changed(), left);
  }

  async #ignoring(promise) {
    try {
      await promise;
    } catch {
      // what is not stored may be lost
    }
  }

  close() {
    this.outbox.leave();
    this.#watcher.disconnect();
    clearTimeout(this.#typingEnds);
    document.removeEventListener("visibilitychange", this.markRead);
  }
}
