/** The desk's list: the conversations of an operator or a store, latest activity first, with unread counts. */

/** @import { Chat, Party } from "./conversation.js" */

/**
 * @typedef {object} ListedConversation as the API gives it, and what only this page knows
 * @property {number} conversation_id
 * @property {number} store_id
 * @property {string} username
 * @property {string} operator_name
 * @property {string} operator_group
 * @property {Record<Party, number>} read
 * @property {Record<Party, number>} unread
 * @property {Chat} last_chat
 * @property {number} [typingUntil] this page's own: until when the client shows as typing
 * @property {boolean} [present] this page's own: whether the client is online
 *
 * @typedef {[event: string, data: any, id: string | undefined]} StreamEvent
 */

import { call } from "./api.js";
import { byId, el, inputById, oncePerFrame, updateList } from "./dom.js";
import { formatBrief, LOCAL_ZONE } from "./time.js";

const RELOAD_MS = 500; // changes that require a reload are collected this long
const TYPING_MS = 5000;

export class ConversationList {
  /** @type {ListedConversation[]} latest activity first */
  items = [];
  /** @type {number | null} conversation_id */
  open = null;
  timezone = LOCAL_ZONE; // the store's, once it is known
  #path;
  /** @type {string | null} address of the next page */
  #next = null;
  #countedTo = 0; // position in the log up to which the unread counts include all events
  /** @type {number | undefined} */
  #timer;
  /** @type {Set<StreamEvent[]>} for each page that is being read: the events since it was requested */
  #pending = new Set();
  #onChange;
  render = oncePerFrame(() => this.#render());

  /**
   * @param {["operators" | "stores", number]} owner
   * @param {() => void} onChange called after each change
   */
  constructor([kind, number], onChange) {
    this.#path = `/v1/${kind}/${number}/conversations`;
    this.#onChange = onChange;
    byId("search").addEventListener("input", this.render);
    byId("more").addEventListener("click", () => this.loadMore());
    setInterval(this.render, 60_000); // "5 min" changes
  }

  /** Reads the first page, with at least as many conversations as were loaded. Returns the stream's cursor. */
  async load() {
    const limit = Math.min(100, Math.max(50, this.items.length));
    /** @type {StreamEvent[]} */
    const events = [];
    this.#pending.add(events);
    try {
      const { data, next } = await call("GET", `${this.#path}?limit=${limit}`);
      this.#pending.delete(events);
      this.#replaceItems(data.conversations, next);
      // A cursor is a position in the log of the server that gave it, and this page is from that server.
      this.#countedTo = Number(data.cursor);
      for (const [event, one, id] of events) {
        if (event !== "chat" || Number(id) > this.#countedTo) this.handleEvent(event, one, id);
      }
      return data.cursor;
    } finally {
      this.#pending.delete(events);
    }
  }

  async loadMore() {
    if (!this.#next) return;
    const { data, next } = await call("GET", this.#next);
    this.#replaceItems(appendNew(this.items, data.conversations), next);
  }

  /**
   * @param {ListedConversation[]} items
   * @param {string | undefined} next
   */
  #replaceItems(items, next) {
    this.items = keepLocalState(this.items, items);
    this.#next = next ?? null;
    this.#update();
  }

  /** @param {number} conversation_id */
  find(conversation_id) {
    return this.items.find((item) => item.conversation_id === conversation_id);
  }

  /**
   * Applies an event of the stream.
   * @param {string} event
   * @param {any} data
   * @param {string | undefined} id
   */
  handleEvent(event, data, id) {
    for (const events of this.#pending) events.push([event, data, id]);
    const item = this.find(data.conversation_id);
    if (!item) {
      if (event === "chat" || event === "change") this.#scheduleReload();
      return;
    }
    if (event === "chat") this.#addChat(item, data, Number(id));
    if (event === "change" && data.seq >= item.last_chat.seq) item.last_chat = data;
    if (event === "typing" && data.sender === "client") this.#startTyping(item);
    if (event === "presence" && data.party === "client") item.present = data.present;
    if (event === "read") this.#markRead(item, data);
    this.#update();
  }

  /**
   * @param {ListedConversation} item
   * @param {Chat} chat
   * @param {number} position in the log
   */
  #addChat(item, chat, position) {
    if (chat.seq >= item.last_chat.seq) item.last_chat = chat;
    if (chat.sender === "client") item.typingUntil = 0;
    if (chat.sender === "client" && position > this.#countedTo) item.unread.operator += 1;
    this.items = [item, ...this.items.filter((other) => other !== item)];
  }

  /** @param {ListedConversation} item */
  #startTyping(item) {
    item.typingUntil = Date.now() + TYPING_MS;
    setTimeout(this.render, TYPING_MS + 50);
  }

  /**
   * @param {ListedConversation} item
   * @param {{reader: Party, seq: number}} mark
   */
  #markRead(item, { reader, seq }) {
    item.read[reader] = Math.max(item.read[reader], seq);
    const isCountStale = reader === "operator" && item.unread.operator > 0 && item.conversation_id !== this.open;
    if (isCountStale) this.#scheduleReload();
  }

  /**
   * Sets the unread count of the open conversation, which counts its chats itself.
   * @param {number} conversation_id
   * @param {number} count
   */
  setUnread(conversation_id, count) {
    const item = this.find(conversation_id);
    if (!item || item.unread.operator === count) return;
    item.unread.operator = count;
    this.#update();
  }

  countUnread() {
    return this.items.reduce((sum, item) => sum + item.unread.operator, 0);
  }

  #scheduleReload() {
    this.#timer ??= setTimeout(async () => {
      this.#timer = undefined;
      await this.load().catch(() => {}); // unreachable: loaded again when the stream is live again
    }, RELOAD_MS);
  }

  #update() {
    this.render();
    this.#onChange();
  }

  /** The conversations that match the search and the filter. */
  visible() {
    const words = inputById("search").value;
    const unreadOnly = byId("unread-only").getAttribute("aria-pressed") === "true";
    return this.items.filter((item) => {
      if (unreadOnly && !item.unread.operator && item.conversation_id !== this.open) return false;
      return matches(item, words);
    });
  }

  #render() {
    const visible = this.visible();
    updateList(byId("list"), visible.map((item) => this.#row(item)));
    byId("more").hidden = !this.#next;
    byId("empty").hidden = visible.length > 0;
    byId("empty").textContent = this.items.length ? "No loaded conversation matches." : "No conversations yet.";
  }

  /** @param {ListedConversation} item */
  #row(item) {
    const { conversation_id, username, last_chat, unread } = item;
    const time = formatBrief(last_chat.utc_date, this.timezone);
    const isTyping = (item.typingUntil ?? 0) > Date.now();
    const isOpen = conversation_id === this.open;
    const content = JSON.stringify([username, last_chat, unread.operator, time, isTyping, isOpen, item.present]);
    return { key: String(conversation_id), content, make: () => makeRow(item, { time, isTyping, isOpen }) };
  }
}

/**
 * The new items with what only this page knows about the old ones.
 * @param {ListedConversation[]} previous
 * @param {ListedConversation[]} items
 */
export function keepLocalState(previous, items) {
  const byNumber = new Map(previous.map((item) => [item.conversation_id, item]));
  return items.map((item) => {
    const { typingUntil, present } = byNumber.get(item.conversation_id) ?? {};
    return { typingUntil, present, ...item };
  });
}

/**
 * A further page after the loaded one. A conversation may be in both, because activity moves it.
 * @param {ListedConversation[]} loaded
 * @param {ListedConversation[]} page
 */
export function appendNew(loaded, page) {
  const known = new Set(loaded.map((item) => item.conversation_id));
  return [...loaded, ...page.filter((item) => !known.has(item.conversation_id))];
}

/**
 * Whether the words of a search are in the names, the number or the last chat.
 * @param {ListedConversation} item
 * @param {string} words
 */
export function matches({ username, operator_name, conversation_id, last_chat }, words) {
  const text = `${username} ${operator_name} #${conversation_id} ${last_chat.payload}`;
  return text.toLowerCase().includes(words.trim().toLowerCase());
}

/**
 * @param {ListedConversation} item
 * @param {{time: string, isTyping: boolean, isOpen: boolean}} state
 */
function makeRow({ conversation_id, username, last_chat, unread, present }, { time, isTyping, isOpen }) {
  const count = unread.operator;
  const shownCount = count > 99 ? "99+" : String(count);
  return el(
    "li",
    {},
    el(
      "a",
      { href: `#${conversation_id}`, class: `row ${count ? "new" : ""}`, "aria-current": isOpen && "true" },
      el("span", { class: `face ${present ? "here" : ""}`, "aria-hidden": "true" }, [...username][0].toUpperCase()),
      el("span", { class: "name" }, username),
      el("span", { class: "time small muted numbers" }, time),
      el("span", { class: `last small ${isTyping ? "typing" : ""}` }, isTyping ? "is typing…" : preview(last_chat)),
      count > 0 && el("span", { class: "pill count" }, shownCount, el("span", { class: "visually-hidden" }, " unread")),
      present && el("span", { class: "visually-hidden" }, "online"),
    ),
  );
}

/**
 * The last chat on one line: "Held: You: Good morning"
 * @param {Chat} chat
 */
export function preview({ sender, state, payload }) {
  const prefixes = { held: "Held: ", failed: "Failed: ", cancelled: "Cancelled: ", queued: "", sent: "" };
  return prefixes[state] + (sender === "operator" ? "You: " : "") + payload;
}
