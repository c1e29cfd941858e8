import { openBrowser, restore, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { Composer, MAX_CHARACTERS } from "../../api/static/composer.js";

let sent, typing, composer;
beforeEach(() => {
  openBrowser();
  stopClock();
  [sent, typing] = [[], 0];
  composer = open();
});
afterEach(restore);

const open = () =>
  new Composer("client:7", "Write a message", {
    onSend: (text) => sent.push(text),
    onTyping: () => {
      typing += 1;
    },
  });
const type = (text) => {
  composer.field.value = text;
  composer.field.fire("input");
};
const press = (key, members = {}) =>
  composer.field.fire("keydown", { key, shiftKey: false, isComposing: false, ...members });

test("Enter sends the text without the space around it, and empties the field", () => {
  type("  hello\n");
  press("Enter");
  assert.deepEqual([sent, composer.field.value, open().field.value], [["hello"], "", ""]);
});

test("Shift+Enter, an input method's Enter and a touch keyboard's Enter do not send", () => {
  type("hello");
  press("Enter", { shiftKey: true });
  press("Enter", { isComposing: true });
  globalThis.matchMedia = () => ({ matches: true });
  press("Enter");
  assert.deepEqual(sent, []);
});

test("an empty text is not sent", () => {
  type(" \n ");
  press("Enter");
  assert.deepEqual(sent, []);
});

test("a text may have 299 characters, an emoji counts as one", () => {
  type("😀".repeat(MAX_CHARACTERS + 1));
  press("Enter");
  assert.deepEqual([sent, composer.count.textContent, composer.button.disabled], [[], "1 too many", true]);
  type("😀".repeat(MAX_CHARACTERS));
  assert.deepEqual([composer.count.textContent, composer.button.disabled], ["299 of 299", false]);
  press("Enter");
  assert.equal(sent.length, 1);
  type("x".repeat(199));
  assert.equal(composer.count.textContent, "");
});

test("a draft is there again on a new page", () => {
  type("half a sent");
  assert.equal(open().field.value, "half a sent");
});

test("typing is reported every three seconds at most, and at once after sending", () => {
  type("a");
  type("ab");
  assert.equal(typing, 1);
  mock.timers.tick(3000);
  type("abc");
  assert.equal(typing, 2);
  press("Enter");
  type("d");
  assert.equal(typing, 3);
  type(" ");
  mock.timers.tick(3000);
  type("");
  assert.equal(typing, 3);
});

describe("editing a chat", () => {
  let saved, isSaved;
  beforeEach(() => {
    [saved, isSaved] = [[], true];
    type("draft");
    composer.edit("old text", async (text) => {
      saved.push(text);
      return isSaved;
    });
  });
  const settle = () => new Promise(setImmediate);

  test("shows its text, and afterwards the draft again", async () => {
    assert.deepEqual([composer.field.value, composer.button.textContent], ["old text", "Save"]);
    type("new text");
    press("Enter");
    await settle();
    assert.deepEqual(
      [saved, sent, composer.field.value, composer.button.textContent],
      [["new text"], [], "draft", "Send"],
    );
  });

  test("is left with Escape, without saving", () => {
    type("new text");
    press("Escape");
    assert.deepEqual([saved, composer.field.value], [[], "draft"]);
  });

  test("keeps the text if saving fails", async () => {
    isSaved = false;
    type("new text");
    press("Enter");
    press("Enter"); // while it is being saved
    await settle();
    assert.deepEqual([saved, composer.field.value, composer.button.textContent], [["new text"], "new text", "Save"]);
  });
});
