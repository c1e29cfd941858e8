/** Chats on their way to the API: in order, each with its chat_id, so that trying again never sends it twice. */

import { backoff, call, Refused } from "./api.js";
import { keep, kept, keptKeys } from "./kept.js";

/** Above every id that the database makes and people choose, below 2^53. */
function newChatId() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return 2 ** 52 + (high % 2 ** 20) * 2 ** 32 + low;
}

const UNHEARD = { accepted() {}, changed() {} };

export class Outbox {
  entries = []; // {chat_id, payload, at, client_id, operator_id, waiting: tried in vain, problem: why the API refused it}
  #common; // what each chat has besides
  #seen = new Set(); // the chat_ids that this page knows; what is kept besides is another tab's
  #left = false;
  #key;
  #on;
  #busy = false;
  #failures = 0;
  #timer = null;

  /** `on`: accepted(chat) and changed(). What an earlier page left unsent is taken up again. */
  constructor(common, on) {
    this.#common = common;
    this.#key = `outbox:${common.sender}:${common.conversation_id}`;
    this.#on = on;
    this.entries = kept(this.#key, []);
    for (const { chat_id } of this.entries) this.#seen.add(chat_id);
    addEventListener("online", this.drain);
  }

  /** Nobody looks at it any more; what is in it is sent all the same. */
  leave() {
    this.#on = UNHEARD;
    this.#left = true;
    this.#endIfDone();
  }

  #endIfDone() {
    if (!this.#left || this.#first()) return;
    clearTimeout(this.#timer);
    removeEventListener("online", this.drain);
  }

  add(payload) {
    const { client_id, operator_id } = this.#common;
    this.entries.push({ chat_id: newChatId(), payload, at: Date.now(), client_id, operator_id });
    this.#changed();
    this.drain();
  }

  discard(chat_id) {
    this.entries = this.entries.filter((entry) => entry.chat_id !== chat_id);
    this.#changed();
  }

  /** Tries a refused chat again, as the last. */
  retry(chat_id) {
    const entry = this.entries.find((one) => one.chat_id === chat_id);
    this.discard(chat_id);
    this.entries.push({ ...entry, problem: undefined });
    this.drain();
  }

  /** Sends what is there, one after the other: the order of acceptance is the order of the conversation. */
  drain = async () => {
    clearTimeout(this.#timer);
    if (this.#busy) return;
    this.#busy = true;
    try {
      for (let entry = this.#first(); entry; entry = this.#first()) await this.#send(entry);
      this.#failures = 0;
    } catch {
      this.#failures += 1;
      this.#timer = setTimeout(this.drain, backoff(this.#failures));
    } finally {
      this.#busy = false;
      this.#changed();
      this.#endIfDone();
    }
  };

  #first() {
    return this.entries.find((entry) => !entry.problem);
  }

  async #send(entry) {
    const { chat_id, payload, client_id, operator_id } = entry;
    try {
      const parties = client_id ? { client_id, operator_id } : {};
      const { data } = await call("POST", "/v1/chats", { ...this.#common, ...parties, chat_id, payload });
      this.entries = this.entries.filter((one) => one !== entry);
      this.#on.accepted(data);
    } catch (error) {
      if (!(error instanceof Refused)) {
        entry.waiting = true;
        throw error;
      }
      entry.problem = error.message;
    }
    this.#changed();
  }

  #changed() {
    for (const { chat_id } of this.entries) this.#seen.add(chat_id);
    const others = kept(this.#key, []).filter((entry) => !this.#seen.has(entry.chat_id));
    keep(this.#key, [...others, ...this.entries]);
    this.#on.changed();
  }
}

/** Sends what earlier pages of this party left unsent, in whatever conversation. */
export function sendLeftovers(sender) {
  const prefix = `outbox:${sender}:`;
  for (const key of keptKeys(prefix)) {
    const outbox = new Outbox({ conversation_id: Number(key.slice(prefix.length)), sender }, UNHEARD);
    outbox.leave();
    outbox.drain();
  }
}
