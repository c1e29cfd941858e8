/** The desk: the conversations of an operator or a store, and the queue; live, made to stay open all day. */

/**
 * @import { Chat } from "./conversation.js"
 * @import { StreamState } from "./stream.js"
 */

import { RejectedError, retryUntilReached } from "./api.js";
import { alertTo, prepareSettings, setTitle } from "./alerts.js";
import { showConnection } from "./connection.js";
import { ConversationList } from "./conversation-list.js";
import { ConversationView } from "./conversation-view.js";
import { announce, byId, inputById, showProblem } from "./dom.js";
import { sendLeftovers } from "./outbox.js";
import { askForDesk, findOwner, rememberDesk } from "./picker.js";
import { QueueView } from "./queue-view.js";
import { listenForShortcuts } from "./shortcuts.js";
import { takeToken } from "./storage.js";
import { watchStore } from "./store-status.js";
import { Stream } from "./stream.js";
import { formatFull } from "./time.js";

/** @type {ConversationList} */
let list;
/** @type {Stream | undefined} */
let stream;
/** @type {ConversationView | null} the open conversation */
let view = null;
/** @type {(() => void) | null} */
let refreshStore = null;
const queue = new QueueView(byId("queue"));

// Events ------------------------------------------------------------------------------------------

/**
 * @param {string} event
 * @param {any} data
 * @param {string | undefined} id
 */
function handleEvent(event, data, id) {
  if (event === "reset") {
    reloadAll();
    return;
  }
  list.handleEvent(event, data, id);
  if (view && (data.conversation_id === null || data.conversation_id === openNumber())) view.handleEvent(event, data);
  if (event === "chat" || event === "change") queue.refresh();
  if (event === "chat" && data.sender === "client") alertUnlessSeen(data);
}

const openNumber = () => view?.conversation.conversation_id ?? null;

/** @param {Chat} chat */
function alertUnlessSeen(chat) {
  const isOpen = chat.conversation_id === openNumber() && document.visibilityState === "visible";
  if (isOpen && !byId("conversations").hidden) return;
  const name = list.find(chat.conversation_id)?.username ?? "A client";
  announce(`${name}: ${chat.payload}`);
  alertTo(chat, name, (conversation_id) => {
    location.hash = String(conversation_id);
  });
}

/** Reads everything shown again: events without a cursor may have been lost during an interruption. */
async function reloadAll() {
  refreshStore?.();
  queue.refresh();
  await Promise.allSettled([list.load(), view?.load()]);
}

/** @param {StreamState} state */
const showState = (state) => showConnection(byId("link"), state, stream?.retry);

// Views -------------------------------------------------------------------------------------------

/** Shows what the address names: a conversation by its number, "queue", or only the list. */
function route() {
  const name = location.hash.slice(1);
  const isQueue = name === "queue";
  byId("conversations").hidden = isQueue;
  byId("queue").hidden = !isQueue;
  setCurrent("to-queue", isQueue);
  setCurrent("to-list", !isQueue);
  queue.show(isQueue);
  const number = /^\d+$/.test(name) ? Number(name) : null;
  document.body.dataset.view = isQueue ? "queue" : number ? "conversation" : "list";
  if (!isQueue && number !== openNumber()) open(number);
}

/**
 * @param {string} id
 * @param {boolean} isCurrent
 */
function setCurrent(id, isCurrent) {
  if (isCurrent) byId(id).setAttribute("aria-current", "page");
  else byId(id).removeAttribute("aria-current");
}

/** @param {number | null} conversation_id */
async function open(conversation_id) {
  view?.close();
  view = null;
  byId("conversation").replaceChildren();
  byId("head").hidden = !conversation_id;
  byId("none").hidden = Boolean(conversation_id);
  list.open = conversation_id;
  list.render();
  if (!conversation_id) return;
  const handlers = { onChange: showHead, onAccepted() {}, onProblem: showProblem };
  const opened = new ConversationView(conversation_id, "operator", {}, handlers);
  view = opened;
  opened.conversation.username = list.find(conversation_id)?.username; // until the rest is loaded
  try {
    await retryUntilReached(() => opened.load({ opening: true }), () => {});
  } catch (error) {
    if (!(error instanceof RejectedError)) throw error;
    if (view === opened) location.hash = "";
    return showProblem(error.message);
  }
  if (view !== opened) return; // another conversation was opened meanwhile
  byId("conversation").replaceChildren(opened.thread.element, opened.composer.element);
  opened.update();
}

/** @param {ConversationView} changed */
function showHead(changed) {
  if (changed !== view) return;
  const { conversation } = view;
  const { conversation_id } = conversation;
  byId("name").textContent = conversation.username ?? `Conversation ${conversation_id}`;
  const isOnline = conversation.present.client;
  byId("presence").textContent = isOnline === undefined ? "" : isOnline ? "Online · " : "Away · ";
  byId("presence").classList.toggle("present", isOnline === true);
  byId("about").textContent = `#${conversation_id} · ${conversation.operator_name ?? ""}`;
  byId("about").title = formatFull(Date.now(), conversation.timezone);
  if (conversation.chats.size) list.setUnread(conversation_id, conversation.countUnread("operator"));
}

function handleListChange() {
  setTitle(list.countUnread());
  const first = list.items[0];
  if (!first || refreshStore) return;
  refreshStore = watchStore(first.store_id, (store) => {
    byId("store").textContent = store.text;
    list.timezone = store.timezone;
    list.render();
  });
}

// Keyboard ----------------------------------------------------------------------------------------

/** @param {1 | -1} by */
function step(by) {
  const visible = list.visible().map((item) => item.conversation_id);
  const index = list.open === null ? -1 : visible.indexOf(list.open);
  const next = index < 0 ? visible.at(by > 0 ? 0 : -1) : visible[index + by];
  if (next === undefined) return;
  location.replace(`#${next}`);
  const row = byId("list").querySelector(/** @type {"a"} */ (`[data-key="${next}"] a`));
  row?.focus();
  row?.scrollIntoView({ block: "nearest" });
}

/** @param {HTMLElement} target */
function escape(target) {
  const search = inputById("search");
  if (target === search) {
    search.value = "";
    list.render();
  }
  if (target.matches("input, textarea")) {
    target.blur();
    byId("list").querySelector(/** @type {"a"} */ ("[aria-current]"))?.focus();
  } else location.hash = "";
}

function toggleUnread() {
  const button = byId("unread-only");
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  list.render();
}

function prepareShortcuts() {
  const write = () => view?.composer.focus();
  listenForShortcuts({
    j: () => step(1),
    ArrowDown: () => step(1),
    k: () => step(-1),
    ArrowUp: () => step(-1),
    r: write,
    Enter: write,
    "/": () => inputById("search").focus(),
    u: toggleUnread,
    q: () => {
      location.hash = location.hash === "#queue" ? "" : "queue";
    },
    "?": () => byId("help", HTMLDialogElement).showModal(),
    Escape: escape,
  });
  byId("unread-only").addEventListener("click", toggleUnread);
  // Enter on the row of the open conversation moves on to the composer.
  byId("list").addEventListener("click", (event) => {
    if (/** @type {Element} */ (event.target).closest("[aria-current]")) write();
  });
}

// Start -------------------------------------------------------------------------------------------

async function start() {
  takeToken();
  prepareSettings();
  const owner = findOwner(location.search);
  if (!owner) return askForDesk();
  const { kind, number } = owner;
  list = new ConversationList([kind === "operator_id" ? "operators" : "stores", number], handleListChange);
  showState({ name: "connecting" });
  let cursor;
  try {
    cursor = await retryUntilReached(() => list.load(), () => showState({ name: "reconnecting" }));
  } catch (error) {
    if (!(error instanceof RejectedError)) throw error;
    return askForDesk(error.message);
  }
  byId("who").textContent = rememberDesk(kind, number, list.items[0]);
  const store = kind === "store_id" ? number : (list.items[0]?.store_id ?? "");
  byId("to-hours", HTMLAnchorElement).search = `store_id=${store}`;
  byId("places").hidden = false;
  prepareShortcuts();
  addEventListener("hashchange", route);
  route();
  sendLeftovers("operator");
  const handlers = { onEvent: handleEvent, onResume: reloadAll, onState: showState };
  stream = new Stream(`${kind}=${number}&as=operator`, handlers);
  return stream.start(cursor);
}

start();
