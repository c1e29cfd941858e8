import { chat, fire, json, networkFails, openBrowser, pass, restore, serve, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { ConversationView } from "../../api/static/conversation-view.js";

let view, snapshot, observer, problems, requests;
beforeEach(() => {
  openBrowser({ ids: ["announcer"] });
  stopClock();
  globalThis.IntersectionObserver = class {
    constructor(report) {
      observer = { end: (isIntersecting) => report([{ isIntersecting }]), isOn: true };
    }
    observe() {}
    disconnect() {
      observer.isOn = false;
    }
  };
  problems = [];
  snapshot = {
    conversation_id: 7,
    client_id: 1,
    operator_id: 2,
    store_id: 1,
    username: "Ann",
    operator_name: "Olga",
    timezone: "UTC",
    read: { client: 0, operator: 0 },
    present: {},
    cursor: "3",
    chat: [chat(1), chat(2)],
  };
  requests = serve(answer);
  open("operator");
});
afterEach(restore);

const answer = ({ method, path, body }) =>
  method === "POST" && path === "/v1/chats" ? json(chat(9, { ...body, state: "queued" }), 201) : json(snapshot);
const announced = () => document.getElementById("announcer").textContent;
const calls = (method) => requests.filter((one) => one.method === method).map(({ path, body }) => [path, body]);

function open(party) {
  view = new ConversationView(
    7,
    party,
    {},
    { onChange() {}, onAccepted() {}, onProblem: (text) => problems.push(text) },
  );
}

test("a loaded conversation knows its parties, also for the chats that are sent from it", async () => {
  await view.load();
  assert.deepEqual([view.nameOf("client"), view.nameOf("operator")], ["Ann", "You"]);
  view.outbox.add("hi");
  await pass();
  const { client_id, operator_id } = calls("POST")[0][1];
  assert.deepEqual(
    [client_id, operator_id, view.conversation.chats.get(requests.at(-1).body.chat_id).state],
    [1, 2, "queued"],
  );
});

describe("an event", () => {
  beforeEach(() => view.load());

  test("chat of the other party is announced once", () => {
    view.handleEvent("chat", chat(3));
    assert.equal(announced(), "Ann: chat 3");
    view.handleEvent("chat", chat(4, { sender: "operator" }));
    view.handleEvent("chat", chat(3, { payload: "again" }));
    assert.equal(announced(), "Ann: chat 3");
  });

  test("change, read, presence and typing are applied", () => {
    view.handleEvent("change", chat(3, { state: "held" }));
    view.handleEvent("read", { reader: "client", seq: 2 });
    view.handleEvent("presence", { party: "client", present: true });
    view.handleEvent("typing", { sender: "client" });
    const { chats, read, present } = view.conversation;
    assert.deepEqual(
      [chats.get(3).state, read.client, present.client, view.conversation.typingLeft("client")],
      ["held", 2, true, 5000],
    );
  });
});

describe("reading", () => {
  beforeEach(() => view.load());
  const marks = () => calls("PUT");

  test("is reported when the end is visible, up to the last chat of the other party", async () => {
    observer.end(true);
    await pass();
    assert.deepEqual(marks(), [["/v1/conversations/7/read", { reader: "operator", seq: 2 }]]);
    view.handleEvent("chat", chat(3));
    await pass();
    assert.equal(marks().at(-1)[1].seq, 3);
  });

  test("is not reported while the end is out of sight, or the tab in the background", async () => {
    document.visibilityState = "hidden";
    observer.end(true);
    await pass();
    assert.deepEqual(marks(), []);
    document.visibilityState = "visible";
    fire(document, "visibilitychange");
    await pass();
    assert.equal(marks().length, 1);
  });

  test("is reported once, and again for a chat that arrives meanwhile", async () => {
    let finish;
    requests = serve((request) =>
      request.method === "PUT"
        ? new Promise((resolve) => {
            finish = () => resolve(json({}));
          })
        : answer(request),
    );
    observer.end(true);
    view.handleEvent("chat", chat(3));
    await pass();
    assert.equal(marks().length, 1);
    finish();
    await pass();
    assert.deepEqual(
      marks().map(([, { seq }]) => seq),
      [2, 3],
    );
  });

  test("that could not be reported is reported with the next event", async () => {
    requests = serve(networkFails);
    observer.end(true);
    await pass();
    assert.equal(view.conversation.read.operator, 0);
    requests = serve(answer);
    view.handleEvent("presence", { party: "client", present: true });
    await pass();
    assert.equal(marks().length, 1);
  });
});

describe("a held chat", () => {
  const held = chat(3, { sender: "operator", state: "held", release_at: "2026-12-02T09:00:00Z" });
  beforeEach(async () => {
    snapshot.chat.push(held);
    await view.load();
  });

  test("is cancelled", async () => {
    requests = serve(() => json({ ...held, state: "cancelled" }));
    await view.cancel(held);
    assert.deepEqual(
      [calls("DELETE")[0][0], view.conversation.chats.get(3).state, announced()],
      ["/v1/chats/3", "cancelled", "Cancelled"],
    );
  });

  test("is edited in the composer", async () => {
    requests = serve(({ body }) => json({ ...held, ...body }));
    view.edit(held);
    assert.equal(view.composer.field.value, "chat 3");
    view.composer.field.value = "edited";
    view.composer.element.fire("submit");
    await pass();
    assert.deepEqual(
      [calls("PATCH"), view.conversation.chats.get(3).payload],
      [[["/v1/chats/3", { payload: "edited" }]], "edited"],
    );
    assert.deepEqual([view.composer.field.value, view.composer.button.textContent], ["", "Send"]);
  });

  test("that was sent meanwhile is not changed, and the page shows why", async () => {
    snapshot.chat = [chat(3, { sender: "operator" })];
    requests = serve(({ method }) =>
      method === "DELETE" ? json({ detail: "chat 3 is sent and cannot be cancelled" }, 409) : json(snapshot),
    );
    await view.cancel(held);
    assert.deepEqual(
      [problems, view.conversation.chats.get(3).state],
      [["chat 3 is sent and cannot be cancelled"], "sent"],
    );
  });

  test("keeps the edited text in the composer if there is no connection", async () => {
    requests = serve(networkFails);
    view.edit(held);
    view.composer.field.value = "edited";
    view.composer.element.fire("submit");
    await pass();
    assert.deepEqual([view.composer.field.value, view.composer.button.textContent], ["edited", "Save"]);
    assert.match(problems[0], /no connection/);
  });
});

test("a client whose chat is held hears when it will be sent", async () => {
  open("client");
  await view.load();
  requests = serve(({ body }) => json(chat(3, { ...body, state: "held", release_at: "2026-12-02T09:00:00Z" }), 201));
  view.outbox.add("hi");
  await pass();
  assert.equal(announced(), "The store is closed. Your message will be sent tomorrow at 09:00.");
});

test("a closed conversation reports nothing more", async () => {
  await view.load();
  view.close();
  fire(document, "visibilitychange");
  await pass();
  assert.deepEqual([observer.isOn, calls("PUT")], [false, []]);
});
