import { chat, openBrowser, restore, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { Conversation } from "../../api/static/conversation.js";
import { describeStatus, isHeldAlike, isSameRun, Thread } from "../../api/static/thread.js";

const TOMORROW = "2026-12-02T09:00:00Z";

let view, thread;
beforeEach(() => {
  openBrowser();
  stopClock("2026-12-01T12:00:00Z");
  reader("client");
});
afterEach(restore);

/** A new thread as this party reads it. */
function reader(party) {
  const names = { client: "Ann", operator: "Olga" };
  const outbox = {
    entries: [],
    retry: (id) => calls.push(["retry", id]),
    discard: (id) => calls.push(["discard", id]),
    drain: () => calls.push(["drain"]),
  };
  const act =
    (name) =>
    ({ chat_id }) =>
      calls.push([name, chat_id]);
  const calls = [];
  view = {
    conversation: new Conversation(7),
    party,
    outbox,
    calls,
    edit: act("edit"),
    cancel: act("cancel"),
    nameOf: (one) => (one === party ? "You" : names[one]),
  };
  thread = new Thread(view);
}

function render(...chats) {
  for (const one of chats) view.conversation.putChat(one);
  thread.render();
  return thread.list.children;
}

const texts = () => thread.list.children.map(({ textContent }) => textContent);
const statuses = () => thread.list.querySelectorAll(".standing").map((line) => line.textContent);

test("each day has a line", () => {
  render(chat(1, { utc_date: "2026-11-30T23:00:00Z" }), chat(2), chat(3, { utc_date: "2026-12-01T11:01:00Z" }));
  assert.deepEqual(
    thread.list.querySelectorAll(".line").map(({ textContent }) => textContent),
    ["Yesterday", "Today"],
  );
});

test("the name stands above the first of a run, for the other party's chats", () => {
  reader("operator");
  render(
    chat(1),
    chat(2, { utc_date: "2026-12-01T11:04:00Z" }),
    chat(3, { utc_date: "2026-12-01T11:10:00Z" }),
    chat(4, { sender: "operator" }),
  );
  assert.deepEqual(thread.list.querySelectorAll(".who").length, 2);
});

test("a run is one sender's chats within five minutes", () => {
  const later = (minutes, members) => chat(2, { utc_date: `2026-12-01T11:0${minutes}:00Z`, ...members });
  assert.ok(isSameRun(chat(1), later(4)));
  assert.ok(!isSameRun(chat(1), later(5)));
  assert.ok(!isSameRun(chat(1), later(1, { sender: "operator" })));
});

test("only the last read and the last sent of one's own chats are marked", () => {
  render(chat(1), chat(2), chat(3), chat(4, { sender: "operator" }));
  view.conversation.markRead("operator", 2);
  thread.render();
  assert.deepEqual(statuses(), ["Read", "Sent"]);
  view.conversation.markRead("operator", 3);
  thread.render();
  assert.deepEqual(statuses(), ["Read"]);
});

test("the first chat that was unread when the conversation was opened has a line above it", () => {
  reader("operator");
  view.conversation.markRead("operator", 1);
  render(chat(1), chat(2), chat(3));
  thread.markUnread();
  view.conversation.markRead("operator", 3);
  thread.render();
  assert.deepEqual(
    texts().map((text) => text.slice(0, 3)),
    ["Tod", "Ann", "New", "Ann", "Ann"],
  );
});

describe("the status", () => {
  const held = chat(1, { state: "held", release_at: TOMORROW });
  const cases = [
    [held, "client", "The store opens tomorrow at 09:00; your message will be sent then."],
    [held, "operator", "Held until the store opens; arrives tomorrow at 09:00"],
    [{ ...held, sender: "operator" }, "operator", "Held until the store opens; will be sent tomorrow at 09:00"],
    [{ ...held, release_at: null }, "client", "Held: the store has no opening scheduled"],
    [chat(1, { state: "queued" }), "client", "On its way…"],
    [chat(1, { state: "failed" }), "client", "Could not be sent"],
    [chat(1, { state: "cancelled" }), "client", "Cancelled, not sent"],
    [chat(1, { state: "cancelled" }), "operator", "Cancelled before it was sent"],
    [chat(1), "client", undefined],
  ];
  for (const [one, party, text] of cases) {
    test(`of a ${one.state} chat of the ${one.sender}, for the ${party}`, () =>
      assert.equal(describeStatus(one, party, "UTC"), text));
  }

  test("stands once below chats that are held until the same instant", () => {
    assert.ok(isHeldAlike(held, { ...held, chat_id: 2 }));
    assert.ok(!isHeldAlike(held, { ...held, release_at: "2026-12-03T09:00:00Z" }));
    assert.ok(!isHeldAlike(held, { ...held, sender: "operator" }));
    assert.ok(!isHeldAlike(held, undefined));
    render(held, chat(2, { state: "held", release_at: TOMORROW }));
    assert.deepEqual(
      statuses().map((text) => text.includes("tomorrow")),
      [false, true],
    );
  });

  test("has buttons for what the sender can do", () => {
    render(held, chat(2, { state: "queued" }), chat(3));
    const buttons = thread.list.querySelectorAll("button");
    assert.deepEqual(
      buttons.map(({ textContent }) => textContent),
      ["Edit", "Cancel", "Cancel"],
    );
    for (const button of buttons) button.fire("click");
    assert.deepEqual(view.calls, [
      ["edit", 1],
      ["cancel", 1],
      ["cancel", 2],
    ]);
  });

  test("has no buttons for the other party", () => {
    reader("operator");
    render(held);
    assert.equal(thread.list.querySelector("button"), null);
  });
});

describe("a chat in the outbox", () => {
  const entry = { chat_id: 2, payload: "unsent", at: Date.parse("2026-12-01T12:00:00Z") };

  test("stands below the accepted chats", () => {
    view.outbox.entries = [entry];
    render(chat(1));
    assert.match(texts().at(-1), /unsent12:00Sending…$/);
  });

  test("is not shown twice if the stream delivers it before its request is answered", () => {
    view.outbox.entries = [entry];
    render(chat(2));
    assert.deepEqual([texts().length, thread.list.querySelectorAll(".unsent").length], [2, 0]);
  });

  test("can be tried again at once while it waits", () => {
    view.outbox.entries = [{ ...entry, waiting: true }];
    render();
    assert.match(texts().at(-1), /Not sent yet, no connection/);
    thread.list.querySelector("button").fire("click");
    assert.deepEqual(view.calls, [["drain"]]);
  });

  test("can be tried again or discarded if it was rejected", () => {
    view.outbox.entries = [{ ...entry, problem: "payload: too long" }];
    render();
    assert.match(texts().at(-1), /Rejected: payload: too long/);
    for (const button of thread.list.querySelectorAll("button")) button.fire("click");
    assert.deepEqual(view.calls, [
      ["retry", 2],
      ["discard", 2],
    ]);
  });
});

test("200 chats are shown at first, and 200 more on request", () => {
  render(...Array.from({ length: 450 }, (_, index) => chat(index + 1)));
  const shown = () => thread.list.querySelectorAll(".chat").length;
  assert.deepEqual([shown(), thread.earlier.hidden], [200, false]);
  thread.earlier.fire("click");
  assert.equal(shown(), 400);
  thread.earlier.fire("click");
  assert.deepEqual([shown(), thread.earlier.hidden], [450, true]);
});

test("the end stays in view, unless the reader has scrolled up", () => {
  Object.assign(thread.scroller, { scrollHeight: 1000, clientHeight: 300 });
  render(chat(1));
  assert.deepEqual([thread.scroller.scrollTop, thread.latest.hidden], [1000, true]);
  thread.scroller.scrollTop = 100;
  thread.scroller.fire("scroll");
  render(chat(2));
  assert.deepEqual([thread.scroller.scrollTop, thread.latest.hidden], [100, false]);
  thread.latest.fire("click");
  assert.equal(thread.scroller.scrollTop, 1000);
});

test("the other party is shown while it types", () => {
  view.conversation.startTyping("operator");
  thread.render();
  assert.equal(thread.typing.textContent, "Olga is typing…");
  view.conversation.startTyping("client");
  view.conversation.putChat(chat(1, { sender: "operator" }));
  thread.render();
  assert.equal(thread.typing.textContent, "");
});
