/** The desk's list: the conversations of an operator or a store, newest first, with what is unread. */

import { call } from "./api.js";
import { byId, el, show, soon } from "./dom.js";
import { brief, HERE } from "./time.js";

const RELOAD_MS = 500; // changes that need the list anew are gathered for so long
const TYPING_MS = 5000;

export class List {
  items = []; // as the API has them, newest activity first; besides: typingUntil, present
  open = null; // conversation_id
  timezone = HERE; // the store's, once it is known
  #path;
  #next = null;
  #loaded = 0; // position of the log that the counts hold; events up to there are in them
  #timer = null;
  #meanwhile = new Set(); // of each page that is being read, the events that came since it was asked for
  #changed;
  render = soon(() => this.#render());

  /** `owner`: ["operators" | "stores", number]; `changed` is called after each change. */
  constructor([kind, number], changed) {
    this.#path = `/v1/${kind}/${number}/conversations`;
    this.#changed = changed;
    byId("search").addEventListener("input", this.render);
    byId("more").addEventListener("click", () => this.more());
    setInterval(this.render, 60_000); // "5 min" grows
  }

  /** Reads the first page, keeping as many as were there. Answers the stream's cursor. */
  async load() {
    const limit = Math.min(100, Math.max(50, this.items.length));
    const events = [];
    this.#meanwhile.add(events);
    try {
      const { data, next } = await call("GET", `${this.#path}?limit=${limit}`);
      this.#meanwhile.delete(events);
      this.#take(data.conversations, next);
      // The cursor is a position in the log to the server that gave it, and this page is that server's.
      this.#loaded = Number(data.cursor);
      for (const [event, one, id] of events) if (event !== "chat" || Number(id) > this.#loaded) this.take(event, one, id);
      return data.cursor;
    } finally {
      this.#meanwhile.delete(events);
    }
  }

  async more() {
    const { data, next } = await call("GET", this.#next);
    const known = new Set(this.items.map((item) => item.conversation_id));
    this.#take([...this.items, ...data.conversations.filter((item) => !known.has(item.conversation_id))], next);
  }

  #take(items, next) {
    const before = new Map(this.items.map((item) => [item.conversation_id, item]));
    const local = ({ typingUntil, present } = {}) => ({ typingUntil, present });
    this.items = items.map((item) => ({ ...local(before.get(item.conversation_id)), ...item }));
    this.#next = next ?? null;
    this.#now();
  }

  find(conversation_id) {
    return this.items.find((item) => item.conversation_id === conversation_id);
  }

  /** Takes an event of the stream. */
  take(event, data, id) {
    for (const events of this.#meanwhile) events.push([event, data, id]);
    const item = this.find(data.conversation_id);
    if (!item) return event === "chat" || event === "change" ? this.#reload() : null;
    if (event === "chat") this.#chat(item, data, Number(id));
    if (event === "change" && data.seq >= item.last_chat.seq) item.last_chat = data;
    if (event === "typing" && data.sender === "client") this.#types(item);
    if (event === "presence" && data.party === "client") item.present = data.present;
    if (event === "read") this.#read(item, data);
    return this.#now();
  }

  #chat(item, chat, position) {
    if (chat.seq >= item.last_chat.seq) item.last_chat = chat;
    if (chat.sender === "client") item.typingUntil = 0;
    if (chat.sender === "client" && position > this.#loaded) item.unread.operator += 1;
    this.items = [item, ...this.items.filter((other) => other !== item)];
  }

  #types(item) {
    item.typingUntil = Date.now() + TYPING_MS;
    setTimeout(this.render, TYPING_MS + 50);
  }

  #read(item, { reader, seq }) {
    item.read[reader] = Math.max(item.read[reader], seq);
    if (reader === "operator" && item.unread.operator > 0 && item.conversation_id !== this.open) this.#reload();
  }

  /** The open conversation counts its unread chats itself. */
  setUnread(conversation_id, count) {
    const item = this.find(conversation_id);
    if (!item || item.unread.operator === count) return;
    item.unread.operator = count;
    this.#now();
  }

  #reload() {
    this.#timer ??= setTimeout(async () => {
      this.#timer = null;
      await this.load().catch(() => {}); // unreachable: loaded again when the stream is back
    }, RELOAD_MS);
  }

  #now() {
    this.render();
    this.#changed();
  }

  /** The conversations that the search and the filter leave. */
  visible() {
    const words = byId("search").value.trim().toLowerCase();
    const unreadOnly = byId("unread-only").getAttribute("aria-pressed") === "true";
    return this.items.filter((item) => {
      if (unreadOnly && !item.unread.operator && item.conversation_id !== this.open) return false;
      const text = `${item.username} ${item.operator_name} #${item.conversation_id} ${item.last_chat.payload}`;
      return text.toLowerCase().includes(words);
    });
  }

  #render() {
    const visible = this.visible();
    show(byId("list"), visible.map((item) => this.#row(item)));
    byId("more").hidden = !this.#next;
    byId("empty").hidden = visible.length > 0;
    byId("empty").textContent = this.items.length ? "None of the conversations loaded here." : "No conversations yet.";
  }

  #row(item) {
    const { conversation_id, username, last_chat, unread } = item;
    const time = brief(last_chat.utc_date, this.timezone);
    const typing = item.typingUntil > Date.now();
    const isOpen = conversation_id === this.open;
    const content = JSON.stringify([username, last_chat, unread.operator, time, typing, isOpen, item.present]);
    return { key: String(conversation_id), content, make: () => row(item, { time, typing, isOpen }) };
  }
}

function row({ conversation_id, username, last_chat, unread, present }, { time, typing, isOpen }) {
  const count = unread.operator;
  return el(
    "li",
    {},
    el(
      "a",
      { href: `#${conversation_id}`, class: `row ${count ? "new" : ""}`, "aria-current": isOpen && "true" },
      el("span", { class: `face ${present ? "here" : ""}`, "aria-hidden": "true" }, [...username][0].toUpperCase()),
      el("span", { class: "name" }, username),
      el("span", { class: "time small muted numbers" }, time),
      el("span", { class: `last small ${typing ? "typing" : ""}` }, typing ? "is typing…" : lastWords(last_chat)),
      count > 0 && el("span", { class: "pill count" }, count > 99 ? "99+" : String(count), el("span", { class: "visually-hidden" }, " unread")),
      present && el("span", { class: "visually-hidden" }, "here now"),
    ),
  );
}

function lastWords({ sender, state, payload }) {
  const before = { held: "Held: ", failed: "Failed: ", cancelled: "Cancelled: " }[state] ?? "";
  return before + (sender === "operator" ? "You: " : "") + payload;
}
