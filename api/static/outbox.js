/** Chats on their way to the API: in order, each with its chat_id, so that trying again never sends it twice. */

import { backoff, call, Refused } from "./api.js";
import { keep, kept } from "./kept.js";

/** Above every id that the database makes and people choose, below 2^53. */
function newChatId() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return 2 ** 52 + (high % 2 ** 20) * 2 ** 32 + low;
}

export class Outbox {
  entries = []; // {chat_id, payload, at, waiting: tried in vain, problem: why the API refused it}
  #common; // what each chat has besides
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
    addEventListener("online", this.drain);
  }

  stop() {
    clearTimeout(this.#timer);
    removeEventListener("online", this.drain);
    this.#on = { accepted() {}, changed() {} };
  }

  add(payload) {
    this.entries.push({ chat_id: newChatId(), payload, at: Date.now() });
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
    }
  };

  #first() {
    return this.entries.find((entry) => !entry.problem);
  }

  async #send(entry) {
    const { chat_id, payload } = entry;
    try {
      const { data } = await call("POST", "/v1/chats", { ...this.#common, chat_id, payload });
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
    keep(this.#key, this.entries);
    this.#on.changed();
  }
}
