import { chat, json, networkFails, openBrowser, pass, restore, serve, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { appendNew, ConversationList, keepLocalState, matches, preview } from "../../api/static/conversation-list.js";

const item = (conversation_id, members = {}) => ({
  conversation_id,
  store_id: 1,
  username: "Ann",
  operator_name: "Olga",
  operator_group: "day",
  read: { client: 0, operator: 0 },
  unread: { client: 0, operator: 0 },
  last_chat: chat(1, { conversation_id }),
  ...members,
});

let browser, list, page, requests;
beforeEach(async () => {
  browser = openBrowser({ ids: ["search", "more", "list", "empty", "unread-only"] });
  stopClock();
  mock.method(globalThis, "setInterval", () => {});
  page = { conversations: [item(7), item(8, { username: "Ben" })], cursor: "10" };
  requests = serve(() => json(page));
  list = new ConversationList(["operators", 1], () => {});
});
afterEach(restore);

const numbers = () => list.items.map(({ conversation_id }) => conversation_id);
const rows = () => {
  browser.drawFrame();
  return document.getElementById("list").children.map(({ textContent }) => textContent);
};

test("it loads the conversations and returns the cursor", async () => {
  assert.equal(await list.load(), "10");
  assert.deepEqual([requests[0].path, numbers()], ["/v1/operators/1/conversations?limit=50", [7, 8]]);
  assert.deepEqual(rows(), ["AAnn11:00chat 1", "BBen11:00chat 1"]);
});

describe("an event", () => {
  beforeEach(() => list.load());

  test("chat moves its conversation to the top and counts it as unread", () => {
    list.handleEvent("chat", chat(2, { conversation_id: 8 }), "11");
    assert.deepEqual([numbers(), list.find(8).unread.operator, list.countUnread()], [[8, 7], 1, 1]);
    assert.equal(list.find(8).last_chat.seq, 2);
  });

  test("chat that the loaded counts include is not counted twice", () => {
    list.handleEvent("chat", chat(2, { conversation_id: 8 }), "10");
    assert.equal(list.find(8).unread.operator, 0);
  });

  test("chat of the operator is not unread", () => {
    list.handleEvent("chat", chat(2, { conversation_id: 8, sender: "operator" }), "11");
    assert.equal(list.find(8).unread.operator, 0);
  });

  test("chat that is older than the last one does not replace it", () => {
    list.handleEvent("chat", chat(5), "11");
    list.handleEvent("chat", chat(4), "12");
    assert.equal(list.find(7).last_chat.seq, 5);
  });

  test("change shows the latest chat as held, edited or cancelled", () => {
    list.handleEvent("change", chat(2, { state: "held", payload: "later" }), undefined);
    assert.match(rows()[0], /Held: later/);
  });

  test("typing shows for five seconds, or until the client's chat", async () => {
    list.handleEvent("typing", { conversation_id: 7, sender: "client" }, undefined);
    assert.match(rows()[0], /is typing…/);
    await pass(5050);
    assert.match(rows()[0], /chat 1/);
    list.handleEvent("typing", { conversation_id: 7, sender: "client" }, undefined);
    list.handleEvent("chat", chat(2), "11");
    assert.match(rows()[0], /chat 2/);
  });

  test("presence marks the client as online", () => {
    list.handleEvent("presence", { conversation_id: 7, party: "client", present: true }, undefined);
    assert.match(rows()[0], /online$/);
    list.handleEvent("presence", { conversation_id: 7, party: "client", present: false }, undefined);
    assert.doesNotMatch(rows()[0], /online$/);
  });

  test("read of the operator in another tab reloads the count", async () => {
    list.handleEvent("chat", chat(2), "11");
    list.handleEvent("read", { conversation_id: 7, reader: "operator", seq: 2 }, undefined);
    await pass(500);
    assert.deepEqual([requests.length, list.find(7).unread.operator], [2, 0]);
  });

  test("of an unknown conversation reloads the list, once for many", async () => {
    page.conversations = [item(9), ...page.conversations];
    for (const seq of [1, 2, 3]) list.handleEvent("chat", chat(seq, { conversation_id: 9 }), String(10 + seq));
    list.handleEvent("typing", { conversation_id: 99, sender: "client" }, undefined);
    await pass(500);
    assert.deepEqual([requests.length, numbers()], [2, [9, 7, 8]]);
  });
});

describe("while the list is reloaded", () => {
  test("events are applied to the new list, if it does not include them", async () => {
    await list.load();
    let answer;
    serve(
      () =>
        new Promise((resolve) => {
          answer = () => resolve(json({ ...page, cursor: "11" }));
        }),
    );
    const loading = list.load();
    await pass();
    list.handleEvent("chat", chat(2), "11");
    list.handleEvent("chat", chat(3), "12");
    page.conversations = [item(7, { unread: { client: 0, operator: 1 }, last_chat: chat(2) }), item(8)];
    answer();
    await loading;
    assert.deepEqual([list.find(7).unread.operator, list.find(7).last_chat.seq], [2, 3]);
  });

  test("a failure leaves the list as it is", async () => {
    await list.load();
    serve(networkFails);
    await assert.rejects(list.load());
    list.handleEvent("chat", chat(2), "11");
    assert.deepEqual([numbers(), list.find(7).unread.operator], [[7, 8], 1]);
  });
});

test("the open conversation sets its own count", async () => {
  await list.load();
  list.setUnread(7, 3);
  assert.equal(list.countUnread(), 3);
});

test("the next page is appended", async () => {
  serve(({ path }) =>
    path.includes("before")
      ? json({ conversations: [item(8), item(5)] })
      : json(page, 200, { Link: '</v1/x?before=1>; rel="next"' }),
  );
  await list.load();
  rows();
  assert.equal(document.getElementById("more").hidden, false);
  await list.loadMore();
  rows();
  assert.deepEqual([numbers(), document.getElementById("more").hidden], [[7, 8, 5], true]);
  await list.loadMore(); // there is no further page
});

describe("the list shows", () => {
  beforeEach(() => list.load());

  test("what matches the search", () => {
    document.getElementById("search").value = " ben ";
    assert.deepEqual(
      list.visible().map(({ username }) => username),
      ["Ben"],
    );
    document.getElementById("search").value = "nobody";
    assert.deepEqual([rows(), document.getElementById("empty").textContent], [[], "No loaded conversation matches."]);
  });

  test("what is unread, and the open conversation", () => {
    document.getElementById("unread-only").setAttribute("aria-pressed", "true");
    assert.deepEqual(list.visible(), []);
    list.setUnread(8, 1);
    list.open = 7;
    assert.equal(list.visible().length, 2);
  });

  test("99+ for more", () => {
    list.setUnread(7, 100);
    assert.match(rows()[0], /99\+ unread/);
  });
});

test("merging keeps what only the page knows", () => {
  const [merged, added] = keepLocalState(
    [item(7, { present: true, typingUntil: 5, username: "old" })],
    [item(7), item(8)],
  );
  assert.deepEqual([merged.present, merged.typingUntil, merged.username, added.present], [true, 5, "Ann", undefined]);
});

test("a page that overlaps with the list adds only what is new", () => {
  assert.deepEqual(
    appendNew([item(1), item(2)], [item(2), item(3)]).map(({ conversation_id }) => conversation_id),
    [1, 2, 3],
  );
});

test("a search looks at the names, the number and the last chat", () => {
  for (const words of ["ANN", "olga", "#7", "chat 1", "", "  "]) assert.ok(matches(item(7), words), words);
  for (const words of ["#8", "day"]) assert.ok(!matches(item(7), words), words);
});

test("the last chat has its state and sender in front", () => {
  assert.equal(preview(chat(1, { sender: "operator", state: "held" })), "Held: You: chat 1");
  assert.equal(preview(chat(1, { state: "cancelled" })), "Cancelled: chat 1");
  assert.equal(preview(chat(1)), "chat 1");
});
