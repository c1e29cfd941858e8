/** One open conversation on a page, for a client or an operator: its state, its thread, and the field to write in. */

/**
 * @import { Chat, Party } from "./conversation.js"
 * @import { Common } from "./outbox.js"
 */

/**
 * @typedef {object} Handlers
 * @property {(view: ConversationView) => void} onChange called after every change
 * @property {(chat: Chat) => void} onAccepted
 * @property {(text: string) => void} onProblem
 */

import { call, RejectedError } from "./api.js";
import { Conversation, OTHER } from "./conversation.js";
import { Composer } from "./composer.js";
import { announce, oncePerFrame } from "./dom.js";
import { Outbox } from "./outbox.js";
import { Thread } from "./thread.js";
import { formatAtWhen } from "./time.js";

export class ConversationView {
  #handlers;
  #scheduleRender = oncePerFrame(() => this.#render());
  /** @type {number | undefined} */
  #typingTimer;
  #isMarking = false;
  #observer;
  #isEndVisible = false;
  /** @type {Common} */
  #common;

  /**
   * @param {number} conversation_id
   * @param {Party} party
   * @param {{client_id?: number, operator_id?: number}} parties if known
   * @param {Handlers} handlers
   */
  constructor(conversation_id, party, parties, handlers) {
    this.party = party;
    this.#handlers = handlers;
    this.conversation = new Conversation(conversation_id);
    this.#common = { conversation_id, ...parties, sender: party };
    this.outbox = new Outbox(this.#common, {
      onAccepted: (chat) => this.#handleAccepted(chat),
      onChange: () => this.update(),
    });
    this.thread = new Thread(this);
    const label = party === "operator" ? "Write a reply" : "Write a message";
    this.composer = new Composer(`${party}:${conversation_id}`, label, {
      onSend: (text) => {
        this.thread.scrollToEnd();
        this.outbox.add(text);
      },
      onTyping: () => this.#ignoreFailure(call("POST", `${this.#path}/typing`, { sender: party })),
    });
    this.#observer = new IntersectionObserver((entries) => {
      this.#isEndVisible = entries.at(-1)?.isIntersecting ?? false; // also false in a hidden frame
      this.markRead();
    });
    this.#observer.observe(this.thread.end);
    document.addEventListener("visibilitychange", this.markRead);
  }

  get #path() {
    return `/v1/conversations/${this.conversation.conversation_id}`;
  }

  /** @param {Party} party */
  nameOf(party) {
    if (party === this.party) return "You";
    const { username, client_id, operator_name } = this.conversation;
    return party === "client" ? (username ?? `Client ${client_id ?? ""}`) : (operator_name ?? "The store");
  }

  /**
   * Reads the conversation from the API. Throws RejectedError 404 if it does not exist yet, and UnreachableError.
   * @param {{opening?: boolean}} [options]
   */
  async load({ opening = false } = {}) {
    this.conversation.expectSnapshot();
    const { data } = await call("GET", this.#path);
    this.conversation.applySnapshot(data);
    Object.assign(this.#common, { client_id: data.client_id, operator_id: data.operator_id });
    if (opening) this.thread.markUnread();
    this.outbox.drain();
    this.update();
    this.markRead();
  }

  /**
   * Applies an event of the stream that is about this conversation.
   * @param {string} event
   * @param {any} data
   */
  handleEvent(event, data) {
    const { conversation } = this;
    if (event === "chat") {
      const isNew = !conversation.chats.has(data.chat_id) && data.sender !== this.party;
      conversation.putChat(data);
      if (isNew) announce(`${this.nameOf(data.sender)}: ${data.payload}`);
    }
    if (event === "change") conversation.putChat(data);
    if (event === "read") conversation.markRead(data.reader, data.seq);
    if (event === "presence") conversation.present[/** @type {Party} */ (data.party)] = data.present;
    if (event === "typing") conversation.startTyping(data.sender);
    this.update();
    this.markRead();
  }

  /** @param {Chat} chat */
  #handleAccepted(chat) {
    this.conversation.putChat(chat);
    if (chat.state === "held") {
      const opening = chat.release_at && formatAtWhen(chat.release_at, this.conversation.timezone);
      announce(`The store is closed.${opening ? ` Your message will be sent ${opening}.` : ""}`);
    }
    this.#handlers.onAccepted(chat);
  }

  /** @param {Chat} chat */
  cancel = async (chat) => {
    await this.#changeChat("DELETE", chat, undefined, "Cancelled");
    this.composer.focus();
  };

  /**
   * Lets the person edit the text of a held chat.
   * @param {Chat} chat
   */
  edit = (chat) => {
    this.composer.edit(chat.payload, (payload) => this.#changeChat("PATCH", chat, { payload }, "Changed"));
  };

  /**
   * Returns whether it succeeded.
   * @param {string} method
   * @param {Chat} chat
   * @param {object | undefined} body
   * @param {string} announcement
   */
  async #changeChat(method, chat, body, announcement) {
    let isChanged = false;
    try {
      const { data } = await call(method, `/v1/chats/${chat.chat_id}`, body);
      this.conversation.putChat(data);
      announce(announcement);
      isChanged = true;
    } catch (error) {
      const isRejected = error instanceof RejectedError;
      this.#handlers.onProblem(isRejected ? error.message : "Not changed: there is no connection. Please try again.");
      await this.#ignoreFailure(this.load());
    }
    this.update();
    return isChanged;
  }

  /** Tells the server how far this party has read: up to the last chat, if the end is visible in a visible tab. */
  markRead = async () => {
    const { conversation, party } = this;
    const seq = conversation.lastReadable(party);
    const isVisible = this.#isEndVisible && document.visibilityState === "visible";
    if (!isVisible || this.#isMarking || seq <= conversation.read[party]) return;
    this.#isMarking = true;
    const previous = conversation.read[party];
    conversation.markRead(party, seq);
    this.update();
    try {
      await call("PUT", `${this.#path}/read`, { reader: party, seq });
    } catch {
      conversation.read[party] = previous; // repeated at the next chat or after the next connect
    }
    this.#isMarking = false;
    const isMarked = conversation.read[party] === seq;
    if (isMarked && conversation.lastReadable(party) > seq) this.markRead(); // a chat arrived meanwhile
  };

  update() {
    this.#scheduleRender();
    this.#handlers.onChange(this);
  }

  #render() {
    this.thread.render();
    clearTimeout(this.#typingTimer);
    const left = this.conversation.typingLeft(OTHER[this.party]);
    if (left) this.#typingTimer = setTimeout(() => this.update(), left);
  }

  /** @param {Promise<unknown>} promise */
  async #ignoreFailure(promise) {
    try {
      await promise;
    } catch {
      // Typing is not stored, and the conversation is read again after the next connect.
    }
  }

  close() {
    this.outbox.detach();
    this.#observer.disconnect();
    clearTimeout(this.#typingTimer);
    document.removeEventListener("visibilitychange", this.markRead);
  }
}
