import { fire, json, openBrowser, pass, restore, serve, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { call, UnreachableError } from "../../api/static/api.js";
import { explainRejection, signIn } from "../../api/static/sign-in.js";
import { loadCredential, saveCredential } from "../../api/static/storage.js";

afterEach(restore);

/** Accepts one credential. */
const guard = (credential) =>
  serve(({ headers }) => (headers.Authorization === `Bearer ${credential}` ? json("in") : json({}, 401)));

describe("a person", () => {
  let body;
  beforeEach(() => {
    ({ body } = openBrowser({ address: "/desk" }));
    stopClock();
  });

  const enter = (key) => {
    body.querySelector("input").value = key;
    body.querySelector("form").fire("submit");
  };

  test("is asked for a key once, for all requests that wait for it", async () => {
    const requests = guard("sesame");
    const calls = Promise.all([call("GET", "/v1/a"), call("GET", "/v1/b")]);
    await pass();
    assert.equal(body.querySelectorAll("dialog").length, 1);
    assert.equal(body.querySelectorAll('[role="alert"]').length, 0);
    enter(" sesame ");
    assert.deepEqual(
      (await calls).map(({ data }) => data),
      ["in", "in"],
    );
    assert.deepEqual([requests.length, body.querySelectorAll("dialog").length], [4, 0]);
  });

  test("is told that a key is unknown, and asked again", async () => {
    guard("sesame");
    const waiting = call("GET", "/v1/a");
    await pass();
    enter("wrong");
    await pass();
    assert.equal(body.querySelector('[role="alert"]').textContent, "Unknown API key.");
    enter("sesame");
    assert.equal((await waiting).data, "in");
  });

  test("is not asked if another request has brought a new key meanwhile", async () => {
    saveCredential("new");
    assert.equal(await signIn("old"), true);
    assert.equal(body.querySelector("dialog"), null);
  });

  test("with an expired token is told to reopen the chat", () => {
    assert.match(explainRejection("abc.def.ghi"), /session has expired/);
  });
});

describe("the embedding page", () => {
  const SHOP = "https://shop.example";
  let body, asked;
  beforeEach(() => {
    ({ body } = openBrowser({ address: `/chat/7?embedded=${SHOP}` }));
    stopClock();
    asked = [];
    globalThis.parent = { postMessage: (message, origin) => asked.push([message, origin]) };
    saveCredential("old.token");
  });

  const answer = (data, { origin = SHOP, source = globalThis.parent } = {}) =>
    fire(globalThis, "message", { origin, source, data: { shoptalk: "token", ...data } });

  test("is asked for a new token, and the request is sent again with it", async () => {
    guard("new.token");
    const waiting = call("GET", "/v1/a");
    await pass();
    assert.deepEqual(asked, [[{ shoptalk: "token" }, SHOP]]);
    answer({ token: "new.token", again: true });
    assert.equal((await waiting).data, "in");
  });

  for (const [name, forged] of Object.entries({
    "another origin": { origin: "https://evil.example" },
    "another window": { source: {} },
  })) {
    test(`is not ${name}`, async () => {
      const waiting = signIn("old.token");
      answer({ token: "forged.token" }, forged);
      await pass(10_000);
      assert.deepEqual([await waiting, loadCredential()], [false, "old.token"]);
    });
  }

  test("may have none now: the request counts as unreachable and is tried later", async () => {
    guard("new.token");
    const waiting = call("GET", "/v1/a");
    waiting.catch(() => {});
    await pass();
    answer({ token: null, again: true });
    await assert.rejects(waiting, UnreachableError);
    assert.equal(body.querySelector("dialog"), null);
  });

  test("may answer with the rejected token: it is tried later", async () => {
    const waiting = signIn("old.token");
    answer({ token: "old.token", again: true });
    assert.equal(await waiting, false);
  });

  test("may be silent: after 10 s it is tried later", async () => {
    const waiting = signIn("old.token");
    await pass(10_000);
    assert.equal(await waiting, false);
  });

  test("may never have one: then the person is told", async () => {
    const waiting = signIn("old.token");
    answer({ token: null, again: false });
    await pass();
    assert.match(body.querySelector('[role="alert"]').textContent, /session has expired/);
    body.querySelector("input").value = "sesame";
    body.querySelector("form").fire("submit");
    assert.equal(await waiting, true);
  });
});
