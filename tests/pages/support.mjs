/** Just enough of a browser to run the page modules under node: storage, events, elements, and a server to fake. */

import { mock } from "node:test";

process.env.TZ = "UTC"; // the reader's time zone; import this module first

// Elements ------------------------------------------------------------------------------------------

const REFLECTED = new Set(["id", "value", "type", "href", "name"]);
const FLAGS = new Set(["hidden", "disabled", "checked", "selected"]);

/** One part of a selector: a tag, .class, [attribute] or [attribute="value"]. */
function matchesPart(element, part) {
  if (part.startsWith(".")) return element.classList.contains(part.slice(1));
  const [, name, value] = part.match(/^\[([\w-]+)(?:="(.*)")?\]$/) ?? [];
  if (!name) return element.tag === part;
  return value === undefined ? element.getAttribute(name) !== null : element.getAttribute(name) === value;
}

export class FakeElement extends EventTarget {
  nodes = []; // elements and text
  parent = null;
  attributes = new Map();
  hidden = false;
  disabled = false;
  checked = false;
  value = "";
  id = "";
  style = {};
  scrollHeight = 0;
  scrollTop = 0;
  clientHeight = 0;

  constructor(tag = "div") {
    super();
    this.tag = tag;
    const attributes = this.attributes;
    this.dataset = new Proxy(
      {},
      {
        get: (_, name) => attributes.get(`data-${name}`),
        set: (_, name, value) => Boolean(attributes.set(`data-${name}`, String(value))),
      },
    );
    this.classList = {
      contains: (name) => this.className.split(" ").includes(name),
      toggle: (name, isOn) => {
        const others = this.className.split(" ").filter((one) => one && one !== name);
        this.className = (isOn ? [...others, name] : others).join(" ");
      },
    };
  }

  get className() {
    return this.getAttribute("class") ?? "";
  }
  set className(value) {
    this.attributes.set("class", value);
  }
  get children() {
    return this.nodes.filter((node) => node instanceof FakeElement);
  }
  get firstElementChild() {
    return this.children[0] ?? null;
  }
  get lastElementChild() {
    return this.children.at(-1) ?? null;
  }
  get textContent() {
    return this.nodes.map((node) => node.textContent ?? node).join("");
  }
  set textContent(text) {
    this.replaceChildren(text);
  }
  get isConnected() {
    return this === document.body || Boolean(this.parent?.isConnected);
  }

  get nextElementSibling() {
    const siblings = this.parent?.children ?? [];
    return siblings[siblings.indexOf(this) + 1] ?? null;
  }

  setAttribute(name, value) {
    this.attributes.set(name, String(value));
    if (REFLECTED.has(name)) this[name] = String(value);
    if (FLAGS.has(name)) this[name] = true;
  }

  getAttribute(name) {
    return this.attributes.get(name) ?? null;
  }
  removeAttribute(name) {
    this.attributes.delete(name);
  }
  append(...nodes) {
    for (const node of nodes) this.insertBefore(node, null);
  }
  prepend(...nodes) {
    for (const node of nodes.reverse()) this.insertBefore(node, this.nodes[0] ?? null);
  }

  insertBefore(node, next) {
    if (node instanceof FakeElement) {
      node.remove();
      node.parent = this;
    }
    this.nodes.splice(next ? this.nodes.indexOf(next) : this.nodes.length, 0, node);
  }

  replaceChildren(...nodes) {
    for (const child of this.children) child.parent = null;
    this.nodes = [];
    this.append(...nodes);
  }

  replaceWith(node) {
    this.parent.insertBefore(node, this);
    this.remove();
  }

  remove() {
    if (this.parent) this.parent.nodes.splice(this.parent.nodes.indexOf(this), 1);
    this.parent = null;
    if (document.activeElement && !document.activeElement.isConnected) document.activeElement = document.body;
  }

  contains(other) {
    return Boolean(other) && (other === this || this.contains(other.parent));
  }
  matches(selector) {
    return selector.split(", ").some((part) => matchesPart(this, part));
  }
  closest(selector) {
    return this.matches(selector) ? this : (this.parent?.closest(selector) ?? null);
  }
  querySelectorAll(selector) {
    return this.children.flatMap((child) => [
      ...(child.matches(selector) ? [child] : []),
      ...child.querySelectorAll(selector),
    ]);
  }
  querySelector(selector) {
    return this.querySelectorAll(selector)[0] ?? null;
  }
  focus() {
    document.activeElement = this;
  }
  blur() {
    document.activeElement = document.body;
  }
  showModal() {
    this.setAttribute("open", "");
  }
  fire(name, members = {}) {
    fire(this, name, members);
  }
}

/** Dispatches an event with these members; returns it. */
export function fire(target, name, members = {}) {
  const event = new Event(name, { cancelable: true });
  for (const [member, value] of Object.entries(members)) Object.defineProperty(event, member, { value });
  target.dispatchEvent(event);
  return event;
}

// The browser ---------------------------------------------------------------------------------------

class FakeStorage {
  getItem(key) {
    return Object.hasOwn(this, key) ? this[key] : null;
  }
  setItem(key, value) {
    this[key] = String(value);
  }
  removeItem(key) {
    delete this[key];
  }
}

const define = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });

/** A new browser with an empty page at this address; elements with the given ids are in it. */
export function openBrowser({ address = "/desk", ids = [] } = {}) {
  const events = new EventTarget();
  const { pathname, search, hash } = new URL(address, "http://shoptalk.example");
  define("window", globalThis);
  define("parent", globalThis);
  define("location", { pathname, search, hash });
  define("history", {
    replaceState: (_state, _title, to) => define("location", new URL(to, "http://shoptalk.example")),
  });
  define("navigator", { onLine: true });
  define("localStorage", new FakeStorage());
  define("sessionStorage", new FakeStorage());
  define("addEventListener", events.addEventListener.bind(events));
  define("removeEventListener", events.removeEventListener.bind(events));
  define("dispatchEvent", events.dispatchEvent.bind(events));
  define("matchMedia", () => Object.assign(new EventTarget(), { matches: false }));
  const frames = [];
  define("requestAnimationFrame", (work) => frames.push(work));
  const body = new FakeElement("body");
  const page = Object.assign(new EventTarget(), {
    body,
    activeElement: body,
    visibilityState: "visible",
    createElement: (tag) => new FakeElement(tag),
    getElementById: (id) => body.querySelectorAll(`[id="${id}"]`)[0] ?? null,
    querySelector: (selector) => body.querySelector(selector.replace("dialog[open]", "[open]")),
  });
  define("document", page);
  for (const kind of ["", "Input", "Select", "TextArea", "Button", "Dialog", "Form"])
    define(`HTML${kind}Element`, FakeElement);
  for (const id of ids) {
    const element = new FakeElement();
    element.setAttribute("id", id);
    body.append(element);
  }
  return { body, drawFrame: () => frames.splice(0).forEach((work) => work()) };
}

/** Answers fetch() with what `answer(request)` returns or throws; returns the list of requests. */
export function serve(answer) {
  const requests = [];
  define("fetch", async (path, options) => {
    const request = {
      path,
      method: options.method ?? "GET",
      ...options,
      body: options.body && JSON.parse(options.body),
    };
    requests.push(request);
    return answer(request);
  });
  return requests;
}

export const json = (data, status = 200, headers = {}) => Response.json(data, { status, headers });
export const networkFails = () => {
  throw new TypeError("Failed to fetch");
};

// Time ----------------------------------------------------------------------------------------------

/** Stops the clock at this instant; backoff is always at its longest. */
export function stopClock(now = "2026-12-01T12:00:00Z") {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: Date.parse(now) });
  mock.method(Math, "random", () => 1);
}

/** Runs the timers of the next milliseconds, and what follows from them. */
export async function pass(milliseconds = 0) {
  await settle();
  mock.timers.tick(milliseconds);
  await settle();
}

/** Lets all promises that can settle do so. */
async function settle() {
  for (let round = 0; round < 20; round += 1) await new Promise(setImmediate);
}

export const restore = () => mock.reset();

/** A chat as the API gives it. */
export const chat = (seq, members = {}) => ({
  chat_id: seq,
  conversation_id: 7,
  seq,
  sender: "client",
  payload: `chat ${seq}`,
  state: "sent",
  utc_date: "2026-12-01T11:00:00Z",
  release_at: null,
  ...members,
});
