import { FakeElement, openBrowser, restore } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { byId, el, linkify, oncePerFrame, updateList } from "../../api/static/dom.js";

let browser;
beforeEach(() => {
  browser = openBrowser();
});
afterEach(restore);

describe("an element", () => {
  test("leaves out attributes and children that are not set", () => {
    const attributes = { class: "small", title: null, lang: undefined, hidden: false, required: true };
    const made = el("p", attributes, "text", null, false, undefined, el("b"));
    assert.deepEqual([...made.attributes], [["class", "small"], ["required", ""]]);
    assert.deepEqual(made.nodes.map((node) => node.tag ?? node), ["text", "b"]);
  });

  test("listens to the events of its on… attributes", () => {
    let clicks = 0;
    el("button", { onclick: () => { clicks += 1; } }).fire("click");
    assert.equal(clicks, 1);
  });

  test("is found by its id, or the page is told that it is missing", () => {
    browser.body.append(el("p", { id: "name" }));
    assert.equal(byId("name").tag, "p");
    assert.throws(() => byId("missing"), /missing/);
    globalThis.HTMLDialogElement = class extends FakeElement {};
    assert.throws(() => byId("name", HTMLDialogElement), /name/);
  });
});

describe("a list", () => {
  let parent, made;
  beforeEach(() => {
    parent = new FakeElement("ul");
    browser.body.append(parent);
    made = [];
  });

  /** Shows items that are written as "key" or "key:content". */
  function show(...items) {
    updateList(parent, items.map((item) => {
      const [key, content = ""] = item.split(":");
      return { key, content, make: () => { made.push(item); return el("li", {}, el("a", {}, item)); } };
    }));
    return parent.children;
  }
  const texts = () => parent.children.map(({ textContent }) => textContent);

  test("is filled, and emptied", () => {
    show("a", "b");
    assert.deepEqual(texts(), ["a", "b"]);
    show();
    assert.deepEqual(texts(), []);
  });

  test("keeps the elements of unchanged items", () => {
    const before = show("a", "b", "c");
    assert.deepEqual(show("a", "b", "c"), before);
    assert.deepEqual(made, ["a", "b", "c"]);
  });

  test("makes only the changed item again, in its place", () => {
    const [a, , c] = show("a", "b:1", "c");
    const after = show("a", "b:2", "c");
    assert.deepEqual([texts(), after[0] === a, after[2] === c], [["a", "b:2", "c"], true, true]);
    assert.deepEqual(made, ["a", "b:1", "c", "b:2"]);
  });

  test("makes the first item again", () => {
    show("a:1", "b");
    show("a:2", "b");
    assert.deepEqual(texts(), ["a:2", "b"]);
  });

  for (const keys of ["c a b", "b c a", "c b a", "b a", "x a b c", "a x c", "c", "x y"]) {
    test(`changes from a b c to ${keys} and makes only what is new`, () => {
      const order = keys.split(" ");
      show("a", "b", "c");
      made = [];
      show(...order);
      assert.deepEqual(texts(), order);
      assert.deepEqual(made, order.filter((key) => !"abc".includes(key)));
    });
  }

  test("keeps the focus on an item that is made again", () => {
    const [, b] = show("a", "b:1");
    b.querySelector("a").focus();
    show("a", "b:2");
    assert.equal(document.activeElement.textContent, "b:2");
  });

  for (const order of [["a", "b"], ["b", "c"], ["b", "a"], ["c", "b", "a"]]) {
    test(`keeps the focus in an item that goes from a b to ${order.join(" ")}`, () => {
      const [, b] = show("a", "b");
      const button = el("button");
      b.append(button);
      button.focus();
      show(...order);
      assert.ok(document.activeElement === button);
    });
  }

  test("does not take the focus from elsewhere", () => {
    show("a:1");
    browser.body.focus();
    show("a:2");
    assert.equal(document.activeElement, browser.body);
  });
});

test("work is done once per frame, however often it is scheduled", () => {
  let runs = 0;
  const schedule = oncePerFrame(() => { runs += 1; });
  schedule();
  schedule();
  assert.equal(runs, 0);
  browser.drawFrame();
  browser.drawFrame();
  assert.equal(runs, 1);
  schedule();
  browser.drawFrame();
  assert.equal(runs, 2);
});

describe("text", () => {
  const describePart = (part) => (part.tag ? { link: part.getAttribute("href"), text: part.textContent } : part);
  const linked = (text) => linkify(text).map(describePart);
  const link = (href) => ({ link: href, text: href });

  test("has its web addresses as links, without the punctuation around them", () => {
    assert.deepEqual(linked("See https://a.example/x?y=1, or (http://b.example)."), [
      "See ", link("https://a.example/x?y=1"), ", or (", link("http://b.example"), ").",
    ]);
  });

  test("has no other links", () => {
    for (const text of ["javascript:alert(1)", "ftp://a.example", "<a href=x>", "a.example"]) {
      assert.deepEqual(linked(text), [text]);
    }
  });

  test("has links that tell the other site nothing", () => {
    const [, made] = linkify("https://a.example/x");
    assert.equal(made.getAttribute("rel"), "noopener noreferrer nofollow");
  });
});
