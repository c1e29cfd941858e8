/**
 * Chats on their way to the API: sent in order, stored until they are answered, each with its own chat_id, so that a
 * repeated request never sends a chat twice.
 */

/** @import { Chat, Party } from "./conversation.js" */

/**
 * @typedef {object} Entry
 * @property {number} chat_id
 * @property {string} payload
 * @property {number} at when it was written, in milliseconds since 1970
 * @property {number} [client_id]
 * @property {number} [operator_id]
 * @property {boolean} [waiting] sending it has failed at least once
 * @property {string} [problem] why the API rejected it
 *
 * @typedef {object} Common the members that all chats of this outbox share
 * @property {number} conversation_id
 * @property {Party} sender
 * @property {number} [client_id]
 * @property {number} [operator_id]
 *
 * @typedef {object} Handlers
 * @property {(chat: Chat) => void} onAccepted
 * @property {() => void} onChange
 */

import { backoff, call, RejectedError } from "./api.js";
import { listKeys, loadItem, saveItem } from "./storage.js";

/** A random id above all ids that the database assigns or people choose, and below 2^53. */
function newChatId() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return 2 ** 52 + (high % 2 ** 20) * 2 ** 32 + low;
}

/** @type {Handlers} */
const NO_HANDLERS = { onAccepted() {}, onChange() {} };

export class Outbox {
  /** @type {Entry[]} */
  entries = [];
  #common;
  /** @type {Set<number>} the chat_ids that this page has had; other stored entries belong to other tabs */
  #seen = new Set();
  #isDetached = false;
  #key;
  /** @type {Handlers} */
  #handlers;
  #isSending = false;
  #failures = 0;
  /** @type {number | undefined} */
  #timer;

  /**
   * Takes over the chats that an earlier page left unsent.
   * @param {Common} common
   * @param {Handlers} handlers
   */
  constructor(common, handlers) {
    this.#common = common;
    this.#key = `outbox:${common.sender}:${common.conversation_id}`;
    this.#handlers = handlers;
    this.entries = loadItem(this.#key, []);
    for (const { chat_id } of this.entries) this.#seen.add(chat_id);
    addEventListener("online", this.drain);
  }

  /** The page no longer shows this outbox. The chats in it are still sent. */
  detach() {
    this.#handlers = NO_HANDLERS;
    this.#isDetached = true;
    this.#endIfEmpty();
  }

  #endIfEmpty() {
    if (!this.#isDetached || this.#nextEntry()) return;
    clearTimeout(this.#timer);
    removeEventListener("online", this.drain);
  }

  /** @param {string} payload */
  add(payload) {
    const { client_id, operator_id } = this.#common;
    this.entries.push({ chat_id: newChatId(), payload, at: Date.now(), client_id, operator_id });
    this.#store();
    this.drain();
  }

  /** @param {number} chat_id */
  discard(chat_id) {
    this.entries = this.entries.filter((entry) => entry.chat_id !== chat_id);
    this.#store();
  }

  /**
   * Sends a rejected chat again, after all others.
   * @param {number} chat_id
   */
  retry(chat_id) {
    const entry = this.entries.find((one) => one.chat_id === chat_id);
    if (!entry) return;
    this.discard(chat_id);
    this.entries.push({ ...entry, problem: undefined });
    this.drain();
  }

  /** Sends the entries one after the other, because the order of acceptance is the order of the conversation. */
  drain = async () => {
    clearTimeout(this.#timer);
    if (this.#isSending) return;
    this.#isSending = true;
    try {
      for (let entry = this.#nextEntry(); entry; entry = this.#nextEntry()) await this.#send(entry);
      this.#failures = 0;
    } catch {
      this.#failures += 1;
      this.#timer = setTimeout(this.drain, backoff(this.#failures));
    } finally {
      this.#isSending = false;
      this.#store();
      this.#endIfEmpty();
    }
  };

  #nextEntry() {
    return this.entries.find((entry) => !entry.problem);
  }

  /** @param {Entry} entry */
  async #send(entry) {
    const { chat_id, payload, client_id, operator_id } = entry;
    try {
      const parties = client_id ? { client_id, operator_id } : {};
      const { data } = await call("POST", "/v1/chats", { ...this.#common, ...parties, chat_id, payload });
      this.entries = this.entries.filter((one) => one !== entry);
      this.#handlers.onAccepted(data);
    } catch (error) {
      if (!(error instanceof RejectedError)) {
        entry.waiting = true;
        throw error;
      }
      entry.problem = error.message;
    }
    this.#store();
  }

  /** Stores the entries beside those of other tabs. */
  #store() {
    for (const { chat_id } of this.entries) this.#seen.add(chat_id);
    /** @type {Entry[]} */
    const stored = loadItem(this.#key, []);
    const others = stored.filter((entry) => !this.#seen.has(entry.chat_id));
    saveItem(this.#key, [...others, ...this.entries]);
    this.#handlers.onChange();
  }
}

/**
 * Sends the chats of this party that earlier pages left unsent, in all conversations.
 * @param {Party} sender
 */
export function sendLeftovers(sender) {
  const prefix = `outbox:${sender}:`;
  for (const key of listKeys(prefix)) {
    const outbox = new Outbox({ conversation_id: Number(key.slice(prefix.length)), sender }, NO_HANDLERS);
    outbox.detach();
    outbox.drain();
  }
}
