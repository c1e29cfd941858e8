/** The smaller modules: shortcuts, the store's status, the connection's state, the picker, the queue's rates. */

import { FakeElement, fire, json, networkFails, openBrowser, pass, restore, serve, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { showConnection } from "../../api/static/connection.js";
import { findOwner, rememberDesk } from "../../api/static/picker.js";
import { describeRate, ratesPerMinute } from "../../api/static/queue-view.js";
import { listenForShortcuts } from "../../api/static/shortcuts.js";
import { loadItem, saveItem } from "../../api/static/storage.js";
import { watchStore } from "../../api/static/store-status.js";

let browser;
beforeEach(() => {
  browser = openBrowser({ ids: ["open-help", "help", "announcer"] });
  stopClock("2026-12-01T12:00:00Z");
});
afterEach(restore);

describe("a shortcut", () => {
  let pressed;
  beforeEach(() => {
    pressed = [];
    const actions = Object.fromEntries(
      ["j", "Enter", "ArrowDown", "Escape"].map((key) => [key, () => pressed.push(key)]),
    );
    listenForShortcuts(actions);
  });
  /** Presses the key in an element; returns whether the browser's own action is prevented. */
  const press = (key, target = browser.body, members = {}) =>
    fire(document, "keydown", { key, target, ...members }).defaultPrevented;

  test("runs its action instead of the browser's", () => {
    assert.equal(press("j"), true);
    assert.equal(press("x"), false);
    assert.equal(press("constructor"), false);
    assert.deepEqual(pressed, ["j"]);
  });

  test("is not one with a modifier, or while a dialog is open", () => {
    for (const modifier of ["ctrlKey", "metaKey", "altKey"]) press("j", browser.body, { [modifier]: true });
    document.getElementById("open-help").fire("click");
    press("j");
    press("Escape");
    assert.deepEqual(pressed, []);
  });

  test("is text in a field, where only Escape works", () => {
    for (const tag of ["input", "textarea", "select"]) {
      press("j", new FakeElement(tag));
      press("Escape", new FakeElement(tag));
    }
    assert.deepEqual(pressed, ["Escape", "Escape", "Escape"]);
  });

  test("is left to a focused button and to what scrolls", () => {
    press("Enter", new FakeElement("button"));
    const scroller = new FakeElement();
    scroller.className = "scroller";
    press("ArrowDown", scroller);
    assert.deepEqual(pressed, []);
    press("j", scroller);
    press("Enter");
    assert.deepEqual(pressed, ["j", "Enter"]);
  });

  test("can be turned off, except Escape", () => {
    saveItem("single-keys", false);
    press("j");
    press("Escape");
    assert.deepEqual(pressed, ["Escape"]);
  });
});

describe("the store's status", () => {
  const store = (members) => json({ store_id: 1, timezone: "UTC", opens_at: null, closes_at: null, ...members });
  let shown;
  const watch = async () => {
    shown = [];
    const refresh = watchStore(1, ({ text }) => shown.push(text));
    await pass();
    return refresh;
  };

  test("follows each opening and closing", async () => {
    const answers = [
      store({ open: false, opens_at: "2026-12-01T13:00:00Z" }),
      store({ open: true, opens_at: "2026-12-02T09:00:00Z", closes_at: "2026-12-01T17:00:00Z" }),
    ];
    serve(() => answers.shift());
    await watch();
    await pass(3_600_000);
    assert.deepEqual(shown, ["Closed, opens 13:00"]);
    await pass(500);
    assert.deepEqual(shown, ["Closed, opens 13:00", "Open until 17:00"]);
  });

  test("may have no change ahead", async () => {
    serve(() => store({ open: true }));
    await watch();
    const later = serve(() => store({ open: false }));
    await pass(86_400_000);
    assert.deepEqual([shown, later.length], [["Open"], 0]);
  });

  test("is read again a minute after a failure, and at once on request", async () => {
    serve(networkFails);
    await watch();
    serve(() => store({ open: true }));
    await pass(60_000);
    assert.deepEqual(shown, ["Open"]);
    serve(networkFails);
    const refresh = await watch();
    serve(() => store({ open: false }));
    refresh();
    await pass();
    assert.deepEqual(shown, ["Closed"]);
  });

  test("waits for a change that is further away than a timer can be", async () => {
    const requests = serve(() => store({ open: false, opens_at: "2027-12-01T12:00:00Z" }));
    await watch();
    await pass(2 ** 31 - 2);
    assert.equal(requests.length, 1);
    await pass(1);
    assert.equal(requests.length, 2);
  });
});

describe("the connection's state", () => {
  let element;
  beforeEach(() => {
    element = new FakeElement("p");
    element.dataset.state = "connecting";
  });
  const announced = () => document.getElementById("announcer").textContent;

  test("is announced when it changes, but not the first connect", () => {
    showConnection(element, { name: "live" });
    assert.deepEqual([element.textContent, announced()], ["Live", ""]);
    showConnection(element, { name: "reconnecting", since: Date.parse("2026-12-01T09:41:00Z") });
    assert.equal(announced(), "Connection: Reconnecting since 09:41");
    showConnection(element, { name: "live" });
    assert.equal(announced(), "Connection: Live");
  });

  test("has a button to try now while there is none", () => {
    let retries = 0;
    for (const name of ["reconnecting", "offline"]) {
      showConnection(element, { name }, () => {
        retries += 1;
      });
      element.querySelector("button").fire("click");
    }
    assert.equal(retries, 2);
  });

  test("has the reason of a rejection", () => {
    showConnection(element, { name: "rejected", reason: "there is no conversation 7" });
    assert.deepEqual(
      [element.textContent, element.dataset.state],
      ["Not connected: there is no conversation 7", "rejected"],
    );
  });
});

describe("the desk's owner", () => {
  test("is in the address", () => {
    assert.deepEqual(findOwner("?operator_id=1"), { kind: "operator_id", number: 1 });
    assert.deepEqual(findOwner("?store_id=20&x=1"), { kind: "store_id", number: 20 });
    for (const search of [
      "",
      "?operator_id=",
      "?operator_id=0",
      "?operator_id=x",
      "?operator_id=12345678901",
      "?client_id=1",
    ]) {
      assert.equal(findOwner(search), null, search);
    }
  });

  test("is remembered, the latest five, each once", () => {
    for (const number of [1, 2, 3, 4, 5, 6, 3]) rememberDesk("store_id", number, undefined);
    assert.deepEqual(
      loadItem("desks").map(({ number }) => number),
      [3, 6, 5, 4, 2],
    );
    assert.equal(rememberDesk("operator_id", 1, { operator_name: "Olga", operator_group: "day" }), "Olga, day");
    assert.equal(rememberDesk("operator_id", 9, undefined), "Operator 9");
  });
});

describe("the queue's rate", () => {
  const sample = (minutes, sent) => ({
    at: new Date(Date.parse("2026-12-01T12:00:00Z") + minutes * 60_000).toISOString(),
    sent,
  });

  test("is between each sample and the previous one", () => {
    assert.deepEqual(ratesPerMinute([sample(0, 100), sample(0.5, 150), sample(2.5, 150)]), [null, 100, 0]);
  });

  test("is averaged over the last five minutes", () => {
    assert.equal(
      describeRate([sample(0, 0), sample(10, 1000), sample(12, 1001), sample(15, 1501)]),
      "100.2 sent per minute, over 5 min",
    );
  });

  test("is not known before the second sample, or after a long gap", () => {
    for (const history of [[], [sample(0, 5)], [sample(0, 5), sample(30, 50)]])
      assert.equal(describeRate(history), "not known yet");
  });
});
