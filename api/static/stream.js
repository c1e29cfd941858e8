/** The live connection: GET /v1/stream read with fetch(), resumed from its cursor after every interruption. */

/**
 * @typedef {object} StreamState
 * @property {"connecting" | "live" | "reconnecting" | "offline" | "rejected"} name
 * @property {number | null} [since] when the connection was lost, in milliseconds since 1970
 * @property {string} [reason] why the server rejected it
 *
 * @typedef {object} Handlers
 * @property {(name: string, data: any, id: string | undefined) => void} onEvent
 * @property {() => void} onResume the stream is live again after an interruption, in which events without a cursor
 *   (typing, read, presence, change) may have been lost
 * @property {(state: StreamState) => void} onState
 */

import { backoff, RejectedError, request } from "./api.js";
import { createParser } from "./vendor/eventsource-parser.js";

const SILENCE_MS = 30_000; // the server sends something every 12 s; after 30 s of silence the connection is dead
const NETWORK_EVENTS = ["online", "offline", "pageshow"];

export class Stream {
  #query;
  #handlers;
  #cursor = "";
  #failures = 0;
  /** @type {number | null} when the connection was lost */
  #lostAt = null;
  #request = new AbortController();
  #endPause = () => {};
  #isStopped = false;

  /**
   * @param {string} query
   * @param {Handlers} handlers
   */
  constructor(query, handlers) {
    this.#query = query;
    this.#handlers = handlers;
  }

  /**
   * Reads the events after the cursor, until stop() is called or the server rejects the stream.
   * @param {string} cursor
   */
  async start(cursor) {
    this.#cursor = cursor;
    for (const name of NETWORK_EVENTS) addEventListener(name, this.retry);
    while (!this.#isStopped) {
      try {
        await this.#read(); // the server ends every stream after some minutes
      } catch (error) {
        if (error instanceof RejectedError) return this.#report("rejected", error.message);
        this.#failures += 1;
      }
      this.#lostAt ??= Date.now();
      if (this.#isStopped) return;
      if (this.#failures > 0) this.#report(navigator.onLine ? "reconnecting" : "offline");
      await this.#pause();
    }
  }

  stop() {
    this.#isStopped = true;
    for (const name of NETWORK_EVENTS) removeEventListener(name, this.retry);
    this.retry();
  }

  /** Connects now instead of after the pause. A live connection is dropped only if the network is gone. */
  retry = () => {
    if (this.#isStopped || !navigator.onLine) this.#request.abort();
    this.#endPause();
  };

  async #read() {
    this.#request = new AbortController();
    const { signal } = this.#request;
    const abort = () => this.#request.abort();
    let silence = setTimeout(abort, SILENCE_MS);
    try {
      /** @type {Record<string, string>} */
      const headers = this.#cursor ? { "Last-Event-ID": this.#cursor } : {};
      const response = await request(`/v1/stream?${this.#query}`, { headers, signal, cache: "no-store" });
      if (!response.body) return;
      this.#goLive();
      const parser = createParser({ onEvent: (event) => this.#handleEvent(event) });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        clearTimeout(silence);
        silence = setTimeout(abort, SILENCE_MS);
        parser.feed(part.value);
      }
    } finally {
      clearTimeout(silence);
    }
  }

  /** @param {{id?: string, event?: string, data: string}} event */
  #handleEvent({ id, event, data }) {
    if (id !== undefined) this.#cursor = id;
    try {
      this.#handlers.onEvent(event ?? "message", JSON.parse(data), id);
    } catch (error) {
      reportError(error); // a bug in the page is no reason to reconnect
    }
  }

  #goLive() {
    const wasLost = this.#lostAt !== null;
    this.#failures = 0;
    this.#lostAt = null;
    this.#report("live");
    if (wasLost) this.#handlers.onResume();
  }

  /**
   * @param {StreamState["name"]} name
   * @param {string} [reason]
   */
  #report(name, reason = "") {
    this.#handlers.onState({ name, since: this.#lostAt, reason });
  }

  #pause() {
    return /** @type {Promise<void>} */ (
      new Promise((resolve) => {
        const timer = setTimeout(resolve, backoff(this.#failures));
        this.#endPause = () => {
          clearTimeout(timer);
          resolve();
        };
      })
    );
  }
}
