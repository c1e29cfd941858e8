import { chat, restore, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, describe, mock, test } from "node:test";

import { Conversation } from "../../api/static/conversation.js";

afterEach(restore);

/** A conversation with these chats and nothing read. */
function conversation(...chats) {
  const made = new Conversation(7);
  made.applySnapshot({
    chat: chats,
    read: { client: 0, operator: 0 },
    timezone: "Europe/Oslo",
    cursor: "12",
    username: "Ann",
  });
  return made;
}

const numbers = (chats) => chats.map(({ seq }) => seq);

describe("a snapshot", () => {
  test("brings the chats, the names, the zone and the cursor", () => {
    const { chats, timezone, cursor, username } = conversation(chat(1), chat(2));
    assert.deepEqual([chats.size, timezone, cursor, username], [2, "Europe/Oslo", "12", "Ann"]);
  });

  test("keeps chats that arrived while it was requested", () => {
    const made = conversation(chat(1));
    made.expectSnapshot();
    made.putChat(chat(2));
    made.putChat(chat(1, { payload: "newer" }));
    made.applySnapshot({ chat: [chat(1)], read: { client: 0, operator: 0 } });
    assert.deepEqual(
      made.visibleTo("operator").map(({ payload }) => payload),
      ["newer", "chat 2"],
    );
  });

  test("drops chats that are gone, if they arrived before it was requested", () => {
    const made = conversation(chat(1), chat(2));
    made.expectSnapshot();
    made.applySnapshot({ chat: [chat(1)], read: { client: 0, operator: 0 } });
    assert.deepEqual(numbers(made.visibleTo("operator")), [1]);
  });

  test("does not move a read position back", () => {
    const made = conversation(chat(1), chat(2));
    made.markRead("client", 2);
    made.applySnapshot({ chat: [], read: { client: 1, operator: 3 } });
    assert.deepEqual(made.read, { client: 2, operator: 3 });
  });
});

describe("a chat", () => {
  test("is shown once, with the latest of what is known about it", () => {
    const made = conversation(chat(1, { state: "held", release_at: "2026-12-02T08:00:00Z" }));
    made.putChat(chat(1, { state: "sent", release_at: null }));
    assert.deepEqual(
      made.visibleTo("client").map(({ state, release_at }) => [state, release_at]),
      [["sent", null]],
    );
  });

  test("that is sent stays sent when an older answer arrives later", () => {
    const made = conversation(chat(1));
    made.putChat(chat(1, { state: "queued", payload: "older" }));
    assert.deepEqual(made.chats.get(1), chat(1));
  });

  test("stands in the order of seq, whatever order it arrived in", () => {
    assert.deepEqual(numbers(conversation(chat(3), chat(1), chat(2)).visibleTo("client")), [1, 2, 3]);
  });

  test("of the operator is hidden from the client until it is sent", () => {
    const made = conversation(
      chat(1, { sender: "operator", state: "held" }),
      chat(2, { state: "held" }),
      chat(3, { sender: "operator" }),
    );
    assert.deepEqual(numbers(made.visibleTo("client")), [2, 3]);
    assert.deepEqual(numbers(made.visibleTo("operator")), [1, 2, 3]);
  });
});

describe("reading", () => {
  test("counts only the other party's sent chats", () => {
    const made = conversation(chat(1), chat(2), chat(3, { sender: "operator" }), chat(4, { state: "held" }));
    assert.deepEqual([made.countUnread("operator"), made.countUnread("client")], [2, 1]);
    assert.deepEqual([made.lastReadable("operator"), made.lastReadable("client")], [2, 3]);
    made.markRead("operator", 1);
    assert.equal(made.countUnread("operator"), 1);
  });

  test("of an empty conversation ends at 0", () => assert.equal(conversation().lastReadable("client"), 0));
});

describe("typing", () => {
  test("ends after five seconds", () => {
    stopClock();
    const made = conversation();
    made.startTyping("client");
    assert.equal(made.typingLeft("client"), 5000);
    mock.timers.tick(4000);
    assert.equal(made.typingLeft("client"), 1000);
    mock.timers.tick(4000);
    assert.equal(made.typingLeft("client"), 0);
  });

  test("ends with a sent chat of the same party", () => {
    stopClock();
    const made = conversation();
    made.startTyping("client");
    made.putChat(chat(1, { sender: "operator" }));
    assert.ok(made.typingLeft("client"));
    made.putChat(chat(2));
    assert.equal(made.typingLeft("client"), 0);
  });
});
