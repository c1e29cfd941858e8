/** The live connection: GET /v1/stream read over fetch(), resumed by its cursor through every cut. */

import { backoff, open, Refused } from "./api.js";
import { createParser } from "./vendor/eventsource-parser.js";

const SILENCE_MS = 30_000; // the server sends something every 12 s: after this long the connection is dead

/**
 * Calls event(name, data, id) for each event; resumed() when it is live again after a cut, in which events
 * that have no cursor (typing, read, presence, change) may have been lost; and state({name, since, reason})
 * with name "live", "reconnecting", "offline" or "refused".
 */
export class Stream {
  #query;
  #on;
  #cursor;
  #failures = 0;
  #ended = null; // the instant of the cut
  #request = new AbortController();
  #wake = () => {};
  #stopped = false;

  constructor(query, on) {
    this.#query = query;
    this.#on = on;
  }

  /** Begins right after the cursor. */
  async start(cursor) {
    this.#cursor = cursor;
    for (const name of ["online", "offline", "pageshow"]) addEventListener(name, this.retry);
    while (!this.#stopped) {
      try {
        await this.#read();
        this.#failures = 0; // ended by the server, as all are after some minutes
      } catch (error) {
        if (error instanceof Refused) return this.#say("refused", error.message);
        this.#failures += 1;
      }
      this.#ended ??= Date.now();
      if (this.#failures > 0 && !this.#stopped) this.#say(navigator.onLine ? "reconnecting" : "offline");
      await this.#pause();
    }
  }

  stop() {
    this.#stopped = true;
    for (const name of ["online", "offline", "pageshow"]) removeEventListener(name, this.retry);
    this.retry();
  }

  /** Tries now; a connection that stands is given up only if the network is gone. */
  retry = () => {
    if (this.#stopped || !navigator.onLine) this.#request.abort();
    this.#wake();
  };

  async #read() {
    this.#request = new AbortController();
    const { signal } = this.#request;
    let alive = setTimeout(() => this.#request.abort(), SILENCE_MS);
    try {
      const headers = this.#cursor ? { "Last-Event-ID": this.#cursor } : {};
      const response = await open(`/v1/stream?${this.#query}`, { headers, signal, cache: "no-store" });
      this.#live();
      const parser = createParser({ onEvent: (event) => this.#take(event) });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        clearTimeout(alive);
        alive = setTimeout(() => this.#request.abort(), SILENCE_MS);
        parser.feed(part.value);
      }
    } finally {
      clearTimeout(alive);
    }
  }

  #take({ id, event, data }) {
    if (id !== undefined) this.#cursor = id;
    try {
      this.#on.event(event, JSON.parse(data), id);
    } catch (error) {
      reportError(error); // the page's own fault: no reason to connect anew
    }
  }

  #live() {
    const again = this.#ended !== null;
    this.#failures = 0;
    this.#ended = null;
    this.#say("live");
    if (again) this.#on.resumed();
  }

  #say(name, reason = "") {
    this.#on.state({ name, since: this.#ended, reason });
  }

  #pause() {
    return new Promise((done) => {
      const timer = setTimeout(done, backoff(this.#failures));
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }
}
