import { chat, fire, json, networkFails, openBrowser, pass, restore, serve, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { Outbox, sendLeftovers } from "../../api/static/outbox.js";
import { saveItem } from "../../api/static/storage.js";

const COMMON = { conversation_id: 7, sender: "client", client_id: 1, operator_id: 2 };
const STORED = "shoptalk:outbox:client:7";

let accepted;
beforeEach(() => {
  openBrowser();
  stopClock();
  accepted = [];
});
afterEach(restore);

const open = (common = COMMON) =>
  new Outbox(common, { onAccepted: ({ payload }) => accepted.push(payload), onChange() {} });
const stored = () => JSON.parse(localStorage.getItem(STORED) ?? "[]").map(({ payload }) => payload);
const accept = ({ body }) => json(chat(1, body), 201);
const texts = (requests) => requests.map(({ body }) => body.payload);

test("a chat is sent with its parties and an id of its own, and then forgotten", async () => {
  const requests = serve(accept);
  const outbox = open();
  outbox.add("one");
  assert.deepEqual(stored(), ["one"]);
  await pass();
  const { chat_id, ...body } = requests[0].body;
  assert.deepEqual(body, { ...COMMON, payload: "one" });
  assert.ok(Number.isSafeInteger(chat_id) && chat_id >= 2 ** 52, chat_id);
  assert.deepEqual([accepted, outbox.entries, stored()], [["one"], [], []]);
});

test("chats are sent one after the other, each when the previous one is answered", async () => {
  const answers = [];
  const requests = serve((request) => new Promise((resolve) => answers.push(() => resolve(accept(request)))));
  const outbox = open();
  for (const text of ["one", "two", "three"]) outbox.add(text);
  for (let sent = 1; sent <= 3; sent += 1) {
    await pass();
    assert.equal(requests.length, sent);
    answers[sent - 1]();
  }
  await pass();
  assert.deepEqual(
    [texts(requests), accepted, new Set(requests.map(({ body }) => body.chat_id)).size],
    [["one", "two", "three"], ["one", "two", "three"], 3],
  );
});

describe("without an answer", () => {
  test("a chat is stored and sent again with the same id, before later ones", async () => {
    let isUp = false;
    const requests = serve((request) => (isUp ? accept(request) : networkFails()));
    const outbox = open();
    outbox.add("one");
    outbox.add("two");
    await pass();
    assert.deepEqual([texts(requests), stored(), outbox.entries[0].waiting], [["one"], ["one", "two"], true]);
    isUp = true;
    await pass(1000);
    assert.deepEqual(texts(requests), ["one", "one", "two"]);
    assert.equal(requests[0].body.chat_id, requests[1].body.chat_id);
    assert.deepEqual([accepted, stored()], [["one", "two"], []]);
  });

  for (const status of [500, 503, 429]) {
    test(`a chat that is answered ${status} is sent again`, async () => {
      const requests = serve(() => json({}, status));
      open().add("one");
      await pass();
      await pass(1000);
      assert.deepEqual(texts(requests), ["one", "one"]);
    });
  }

  test("it waits longer after each failure, 15 s at most", async () => {
    const requests = serve(networkFails);
    open().add("one");
    await pass();
    for (const wait of [1000, 2000, 4000, 8000, 15_000, 15_000]) {
      const before = requests.length;
      await pass(wait - 1);
      assert.equal(requests.length, before, `too early, of ${wait}`);
      await pass(1);
      assert.equal(requests.length, before + 1, `too late, of ${wait}`);
    }
  });

  test("the waits are short again once a chat is answered", async () => {
    let isUp = false;
    const requests = serve((request) => (isUp ? accept(request) : networkFails()));
    const outbox = open();
    outbox.add("one");
    await pass();
    for (const wait of [1000, 2000]) await pass(wait);
    isUp = true;
    await pass(4000);
    isUp = false;
    outbox.add("two");
    await pass();
    await pass(1000);
    assert.deepEqual(texts(requests).slice(-3), ["one", "two", "two"]);
  });

  test("it tries at once when the network is back, and then waits again", async () => {
    const requests = serve(networkFails);
    open().add("one");
    await pass();
    fire(globalThis, "online");
    await pass();
    assert.equal(requests.length, 2);
    await pass(1999); // the wait before is over, the one after the second failure is not
    assert.equal(requests.length, 2);
    await pass(1);
    assert.equal(requests.length, 3);
  });
});

describe("a rejected chat", () => {
  const reject = ({ body }) => (body.payload === "bad" ? json({ detail: "payload: too long" }, 400) : accept({ body }));

  test("stays, with the reason, and does not block later ones", async () => {
    serve(reject);
    const outbox = open();
    outbox.add("bad");
    outbox.add("good");
    await pass();
    assert.deepEqual([accepted, stored(), outbox.entries[0].problem], [["good"], ["bad"], "payload: too long"]);
  });

  test("can be sent again, after all others, or discarded", async () => {
    let isAccepted = false;
    const requests = serve((request) => (isAccepted ? accept(request) : reject(request)));
    const outbox = open();
    outbox.add("bad");
    await pass();
    isAccepted = true;
    outbox.retry(outbox.entries[0].chat_id);
    await pass();
    assert.deepEqual([texts(requests), accepted, stored()], [["bad", "bad"], ["bad"], []]);
    assert.equal(requests[0].body.chat_id, requests[1].body.chat_id);
    isAccepted = false;
    outbox.add("bad");
    await pass();
    outbox.discard(outbox.entries[0].chat_id);
    assert.deepEqual([outbox.entries, stored()], [[], []]);
  });
});

describe("across pages", () => {
  test("a new page sends what an earlier one left unsent", async () => {
    serve(networkFails);
    const first = open();
    first.add("one");
    await pass();
    first.detach();
    const requests = serve(accept);
    open().drain();
    await pass();
    assert.deepEqual(texts(requests), ["one"]);
  });

  test("two tabs do not overwrite each other's chats", async () => {
    serve(networkFails);
    const [one, two] = [open(), open()];
    one.add("from one");
    two.add("from two");
    await pass();
    assert.deepEqual(stored().sort(), ["from one", "from two"]);
    serve(accept);
    await one.drain();
    assert.deepEqual(stored(), ["from two"]);
  });

  test("a detached outbox sends what is left, without telling the page", async () => {
    const requests = serve(accept);
    const outbox = open();
    outbox.add("one");
    outbox.detach();
    await pass();
    assert.deepEqual([texts(requests), accepted, stored()], [["one"], [], []]);
  });

  test("leftovers of all conversations of a party are sent to their own", async () => {
    const requests = serve(accept);
    for (const [sender, id] of [
      ["operator", 7],
      ["operator", 8],
      ["client", 9],
    ]) {
      saveItem(`outbox:${sender}:${id}`, [{ chat_id: id, payload: `to ${id}`, at: 0, client_id: id, operator_id: 2 }]);
    }
    sendLeftovers("operator");
    await pass();
    const sent = requests.map(({ body }) => [body.conversation_id, body.client_id, body.sender, body.payload]);
    assert.deepEqual(sent.sort(), [
      [7, 7, "operator", "to 7"],
      [8, 8, "operator", "to 8"],
    ]);
    assert.equal(localStorage.getItem("shoptalk:outbox:operator:7"), null);
    assert.notEqual(localStorage.getItem("shoptalk:outbox:client:9"), null);
  });
});
