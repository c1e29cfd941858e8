import { openBrowser } from "./support.mjs";

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";

import { listKeys, loadCredential, loadItem, saveCredential, saveItem, takeToken } from "../../api/static/storage.js";

beforeEach(() => openBrowser());

test("a value is stored as JSON, under the pages' own prefix", () => {
  saveItem("desks", [{ number: 1 }]);
  assert.equal(localStorage.getItem("shoptalk:desks"), '[{"number":1}]');
  assert.deepEqual(loadItem("desks"), [{ number: 1 }]);
});

test("false is a value", () => {
  saveItem("single-keys", false);
  assert.equal(loadItem("single-keys", true), false);
});

test("an empty value removes the key", () => {
  for (const empty of ["", [], null]) {
    saveItem("draft", "text");
    saveItem("draft", empty);
    assert.equal(localStorage.getItem("shoptalk:draft"), null);
    assert.equal(loadItem("draft", "fallback"), "fallback");
  }
});

test("what is not JSON counts as missing", () => {
  localStorage.setItem("shoptalk:desks", "{broken");
  assert.deepEqual(loadItem("desks", []), []);
});

test("keys are listed by their prefix", () => {
  for (const key of ["outbox:client:7", "outbox:operator:8", "draft:x"]) saveItem(key, "x");
  localStorage.setItem("another:outbox:client:9", "x");
  assert.deepEqual(listKeys("outbox:"), ["outbox:client:7", "outbox:operator:8"]);
});

test("where storage is blocked, values last as long as the page", () => {
  for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(globalThis, name, {
      configurable: true,
      get() {
        throw new DOMException("blocked", "SecurityError");
      },
    });
  }
  saveItem("draft:7", "text");
  saveCredential("sesame");
  assert.deepEqual([loadItem("draft:7"), loadCredential(), listKeys("draft:")], ["text", "sesame", []]);
  saveItem("draft:7", "");
  assert.equal(loadItem("draft:7"), null);
});

describe("a token in the address", () => {
  test("is stored for this tab, and removed from the address", () => {
    openBrowser({ address: "/chat/7?client_id=1#token=abc.def" });
    takeToken();
    assert.equal(loadCredential(), "abc.def");
    assert.equal(location.pathname + location.search + location.hash, "/chat/7?client_id=1");
    assert.equal(Object.keys(localStorage).length, 0);
  });

  test("leaves what follows it", () => {
    openBrowser({ address: "/desk?operator_id=1#token=abc.def&7" });
    takeToken();
    assert.deepEqual([loadCredential(), location.hash], ["abc.def", "#7"]);
  });

  test("is optional", () => {
    openBrowser({ address: "/desk?operator_id=1#queue" });
    takeToken();
    assert.deepEqual([loadCredential(), location.hash], [null, "#queue"]);
  });
});
