import { fire, json, networkFails, openBrowser, pass, restore, serve, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { Stream } from "../../api/static/stream.js";

const START = "2026-12-01T12:00:00Z";
const NOW = Date.parse(START);

let stream, events, states, resumed;

beforeEach(() => {
  openBrowser();
  stopClock(START);
  [events, states, resumed] = [[], [], 0];
  stream = new Stream("conversation_id=7&as=client", {
    onEvent: (name, data, id) => events.push([name, data, id]),
    onResume: () => {
      resumed += 1;
    },
    onState: ({ name, since }) => states.push(since ? [name, since - NOW] : [name]),
  });
});

afterEach(async () => {
  stream.stop();
  await pass();
  restore();
});

/** A connection that the test writes to; it fails when the page aborts it. */
class Connection {
  constructor({ signal }) {
    this.isAborted = false;
    this.body = new ReadableStream({
      start: (controller) => {
        this.controller = controller;
      },
    });
    signal.addEventListener("abort", () => {
      this.isAborted = true;
      this.controller.error(new DOMException("aborted", "AbortError"));
    });
  }

  async send(text) {
    this.controller.enqueue(new TextEncoder().encode(text));
    await pass();
  }

  async end() {
    this.controller.close();
    await pass();
  }

  async fail() {
    this.controller.error(new TypeError("network error"));
    await pass();
  }
}

/** A server that accepts all streams; returns its connections and the requests for them. */
function acceptStreams() {
  const connections = [];
  const requests = serve((request) => {
    connections.push(new Connection(request));
    return new Response(connections.at(-1).body);
  });
  return { connections, requests, last: () => connections.at(-1) };
}

const event = (id, data = {}) => `event: chat\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
const cursors = (requests) => requests.map(({ headers }) => headers["Last-Event-ID"]);

test("it starts after the cursor and passes each event on", async () => {
  const { requests, last } = acceptStreams();
  stream.start("12");
  await pass();
  await last().send(`retry: 1000\nid: 12\n\n${event(13, { seq: 1 })}event: typing\ndata: {"sender": "client"}\n\n`);
  assert.equal(requests[0].path, "/v1/stream?conversation_id=7&as=client");
  assert.deepEqual(events, [
    ["chat", { seq: 1 }, "13"],
    ["typing", { sender: "client" }, undefined],
  ]);
  assert.deepEqual([cursors(requests), states, resumed], [["12"], [["live"]], 0]);
});

test("without a cursor it asks for none", async () => {
  const { requests } = acceptStreams();
  stream.start("");
  await pass();
  assert.deepEqual(cursors(requests), [undefined]);
});

test("an event may arrive in pieces, even within a character", async () => {
  const { last } = acceptStreams();
  stream.start("0");
  await pass();
  const bytes = new TextEncoder().encode(event(1, { payload: "Grüße 😀" }));
  for (const byte of bytes) last().controller.enqueue(Uint8Array.of(byte));
  await pass();
  assert.deepEqual(events, [["chat", { payload: "Grüße 😀" }, "1"]]);
});

describe("after an interruption", () => {
  test("it resumes after the last event, and the page is told", async () => {
    const { requests, last } = acceptStreams();
    stream.start("12");
    await pass();
    await last().send(event(13) + "event: typing\ndata: {}\n\n");
    await last().fail();
    await pass(1000);
    await last().send(event(14));
    assert.deepEqual(cursors(requests), ["12", "13"]);
    assert.deepEqual([states, resumed], [[["live"], ["reconnecting", 0], ["live"]], 1]);
    assert.deepEqual(
      events.map(([, , id]) => id),
      ["13", undefined, "14"],
    );
  });

  test("it repeats an event that was cut off, and not the one before", async () => {
    const { requests, last } = acceptStreams();
    stream.start("0");
    await pass();
    await last().send(event(1) + event(2).slice(0, 20));
    await last().fail();
    await pass(1000);
    await last().send(event(2));
    assert.deepEqual(cursors(requests), ["0", "1"]);
    assert.deepEqual(
      events.map(([, , id]) => id),
      ["1", "2"],
    );
  });

  test("a reset moves the cursor", async () => {
    const { requests, last } = acceptStreams();
    stream.start("99");
    await pass();
    await last().send('event: reset\nid: 3\ndata: {"reason": "unknown"}\n\n');
    await last().fail();
    await pass(1000);
    assert.deepEqual([events, cursors(requests)], [[["reset", { reason: "unknown" }, "3"]], ["99", "3"]]);
  });

  test("that the server makes, as it does after some minutes, nothing is reported", async () => {
    const { requests, last } = acceptStreams();
    stream.start("0");
    await pass();
    await last().end();
    await pass(500);
    assert.deepEqual([requests.length, states, resumed], [2, [["live"], ["live"]], 1]);
  });

  test("it tries again and again, and says since when it is lost", async () => {
    const requests = serve(networkFails);
    stream.start("0");
    await pass();
    for (const wait of [1000, 2000, 4000, 8000, 15_000, 15_000]) {
      const before = requests.length;
      await pass(wait - 1);
      assert.equal(requests.length, before, `too early, of ${wait}`);
      await pass(1);
      assert.equal(requests.length, before + 1, `too late, of ${wait}`);
    }
    mock.timers.tick(15_000);
    await pass();
    assert.ok(states.length > 6 && states.every(([name]) => name === "reconnecting"));
    assert.equal(new Set(states.map(([, since]) => since)).size, 1);
  });

  test("the waits are short again once it was live", async () => {
    serve(networkFails);
    stream.start("0");
    await pass();
    for (const wait of [1000, 2000, 4000]) await pass(wait);
    const { connections, last } = acceptStreams();
    await pass(8000);
    await last().fail();
    await pass(1000);
    assert.equal(connections.length, 2);
  });

  for (const status of [503, 429]) {
    test(`an answer of ${status} is not the end`, async () => {
      const requests = serve(() => json({}, status));
      stream.start("0");
      await pass();
      await pass(1000);
      assert.equal(requests.length, 2);
    });
  }

  test("it connects at once when the network is back", async () => {
    const requests = serve(networkFails);
    navigator.onLine = false;
    stream.start("0");
    await pass();
    assert.deepEqual([requests.length, states.at(-1)[0]], [1, "offline"]);
    navigator.onLine = true;
    fire(globalThis, "online");
    await pass();
    assert.equal(requests.length, 2);
  });
});

describe("a live connection", () => {
  test("is dead after 30 s of silence", async () => {
    const { connections, last } = acceptStreams();
    stream.start("0");
    await pass();
    await pass(29_000);
    await last().send(": heartbeat\n\n");
    await pass(29_000);
    assert.ok(!last().isAborted);
    await pass(1000);
    assert.ok(last().isAborted);
    assert.equal(states.at(-1)[0], "reconnecting");
    await pass(1000);
    assert.deepEqual([connections.length, states.at(-1)[0]], [2, "live"]);
  });

  test("is dropped when the network is gone, and not when it is asked to retry", async () => {
    const { connections, last } = acceptStreams();
    stream.start("0");
    await pass();
    stream.retry();
    await pass();
    assert.ok(!last().isAborted);
    navigator.onLine = false;
    fire(globalThis, "offline");
    await pass();
    assert.ok(last().isAborted);
    assert.deepEqual([connections.length, states.at(-1)], [1, ["offline", 0]]);
  });

  test("survives a bug in the page's handler", async () => {
    const reported = [];
    globalThis.reportError = (error) => reported.push(error.message);
    const { requests, last } = acceptStreams();
    stream.start("0");
    await pass();
    await last().send("event: chat\nid: 1\ndata: {not JSON\n\n");
    await last().send(event(2));
    assert.equal(reported.length, 1);
    assert.deepEqual([requests.length, events.map(([, , id]) => id)], [1, ["2"]]);
  });
});

test("a rejected stream ends, with the reason", async () => {
  const requests = serve(() => json({ detail: "there is no conversation 7" }, 404));
  let reason;
  stream = new Stream("conversation_id=7", {
    onEvent() {},
    onResume() {},
    onState: (state) => {
      reason = [state.name, state.reason];
    },
  });
  await stream.start("0");
  assert.deepEqual(reason, ["rejected", "there is no conversation 7"]);
  await pass(60_000);
  assert.equal(requests.length, 1);
});

test("a stopped stream ends its connection and makes no other", async () => {
  const { connections, last } = acceptStreams();
  const ended = stream.start("0");
  await pass();
  stream.stop();
  await ended;
  fire(globalThis, "online");
  await pass(60_000);
  assert.deepEqual([connections.length, last().isAborted, states], [1, true, [["live"]]]);
});
