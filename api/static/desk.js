/** The desk: an operator's or a store's conversations and the queue, live, open all day. */

import { Refused, untilReached } from "./api.js";
import { alertTo, prepareSettings, setTitle } from "./alerts.js";
import { announce, byId, showProblem } from "./dom.js";
import { listen } from "./keys.js";
import { showLink } from "./link.js";
import { List } from "./list.js";
import { sendLeftovers } from "./outbox.js";
import { owner, pick, remember } from "./picker.js";
import { QueueView } from "./queue.js";
import { watchStore } from "./store.js";
import { Stream } from "./stream.js";
import { Talk } from "./talk.js";
import { full } from "./time.js";

let list;
let stream;
let talk = null; // the open conversation
let link = { name: "connecting" };
let lookAtStore = null;
const queue = new QueueView(byId("queue"));

// Events ------------------------------------------------------------------------------------------

function take(event, data, id) {
  if (event === "reset") return resumed();
  list.take(event, data, id);
  if (talk && (data.conversation_id === null || data.conversation_id === talk.conversation.conversation_id)) {
    talk.take(event, data);
  }
  if (event === "chat" || event === "change") queue.changed();
  if (event === "chat" && data.sender === "client") alertUnlessSeen(data);
}

function alertUnlessSeen(chat) {
  const seen = chat.conversation_id === talk?.conversation.conversation_id && document.visibilityState === "visible";
  if (seen && byId("conversations").hidden === false) return;
  const name = list.find(chat.conversation_id)?.username ?? "A client";
  announce(`${name}: ${chat.payload}`);
  alertTo(chat, name, (conversation_id) => {
    location.hash = conversation_id;
  });
}

/** Live again after a cut: what has no cursor may have been missed, so all that is shown is read anew. */
async function resumed() {
  lookAtStore?.();
  queue.changed();
  await Promise.allSettled([list.load(), talk?.load()]);
}

function showState(state) {
  link = state;
  showLink(byId("link"), state, stream?.retry);
  if (!talk) return;
  talk.link = state;
  talk.changed();
}

// Views -------------------------------------------------------------------------------------------

/** The address says what is open: nothing, a conversation's number, or "queue". */
function route() {
  const place = location.hash.slice(1);
  const isQueue = place === "queue";
  byId("conversations").hidden = isQueue;
  byId("queue").hidden = !isQueue;
  setCurrent("to-queue", isQueue);
  setCurrent("to-list", !isQueue);
  queue.show(isQueue);
  const number = /^\d+$/.test(place) ? Number(place) : null;
  document.body.dataset.view = isQueue ? "queue" : number ? "talk" : "list";
  if (!isQueue && number !== (talk?.conversation.conversation_id ?? null)) open(number);
}

function setCurrent(id, current) {
  if (current) byId(id).setAttribute("aria-current", "page");
  else byId(id).removeAttribute("aria-current");
}

async function open(conversation_id) {
  talk?.close();
  talk = null;
  byId("talk").replaceChildren();
  byId("head").hidden = !conversation_id;
  byId("none").hidden = Boolean(conversation_id);
  list.open = conversation_id;
  list.render();
  if (!conversation_id) return;
  const opened = new Talk(conversation_id, "operator", {}, { changed: talkChanged, accepted() {}, problem: showProblem });
  talk = opened;
  opened.link = link;
  opened.conversation.username = list.find(conversation_id)?.username; // until the rest is there
  try {
    await untilReached(() => opened.load({ opening: true }), () => {});
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (talk === opened) location.hash = "";
    return showProblem(error.message);
  }
  if (talk !== opened) return; // another was opened meanwhile
  byId("talk").replaceChildren(opened.thread.element, opened.composer.element);
  opened.changed();
}

function talkChanged(changed) {
  if (changed !== talk) return;
  const { conversation } = talk;
  byId("name").textContent = conversation.username ?? `Conversation ${conversation.conversation_id}`;
  const here = conversation.present.client;
  byId("presence").textContent = here === undefined ? "" : here ? "Here now · " : "Away · ";
  byId("presence").classList.toggle("present", here === true);
  byId("about").textContent = `#${conversation.conversation_id} · ${conversation.operator_name ?? ""}`;
  byId("about").title = full(Date.now(), conversation.timezone);
  if (conversation.chats.size) list.setUnread(conversation.conversation_id, conversation.unread("operator"));
}

function listChanged() {
  setTitle(list.items.reduce((sum, item) => sum + item.unread.operator, 0));
  const first = list.items[0];
  if (!first || lookAtStore) return;
  lookAtStore = watchStore(first.store_id, (store) => {
    byId("store").textContent = store.text;
    list.timezone = store.timezone;
    list.render();
  });
}

// Keyboard ----------------------------------------------------------------------------------------

function step(by) {
  const visible = list.visible().map((item) => item.conversation_id);
  const place = visible.indexOf(list.open);
  const next = visible[place < 0 ? (by > 0 ? 0 : visible.length - 1) : place + by];
  if (next === undefined) return;
  location.replace(`#${next}`);
  const row = byId("list").querySelector(`[data-key="${next}"] a`);
  row?.focus();
  row?.scrollIntoView({ block: "nearest" });
}

function escape(target) {
  if (target === byId("search")) {
    target.value = "";
    list.render();
  }
  if (target.matches("input, textarea")) {
    target.blur();
    byId("list").querySelector("[aria-current]")?.focus();
  } else location.hash = "";
}

function toggleUnread() {
  const button = byId("unread-only");
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  list.render();
}

function prepareKeys() {
  const write = () => talk?.composer.focus();
  listen({
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    r: write, Enter: write,
    "/": () => byId("search").focus(),
    u: toggleUnread,
    q: () => { location.hash = location.hash === "#queue" ? "" : "queue"; },
    "?": () => byId("help").showModal(),
    Escape: escape,
  });
  byId("unread-only").addEventListener("click", toggleUnread);
  // Enter on the row of the conversation that is open already: on to writing.
  byId("list").addEventListener("click", (event) => {
    if (event.target.closest("[aria-current]")) write();
  });
}

// Beginning ---------------------------------------------------------------------------------------

async function begin() {
  prepareSettings();
  const [kind, number] = owner();
  if (!kind) return pick();
  list = new List([kind === "operator_id" ? "operators" : "stores", number], listChanged);
  showState(link);
  let cursor;
  try {
    cursor = await untilReached(() => list.load(), () => showState({ name: "reconnecting" }));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return pick(error.message);
  }
  byId("who").textContent = remember(kind, number, list.items[0]);
  byId("to-hours").search = `store_id=${kind === "store_id" ? number : (list.items[0]?.store_id ?? "")}`;
  byId("places").hidden = false;
  prepareKeys();
  addEventListener("hashchange", route);
  route();
  sendLeftovers("operator");
  stream = new Stream(`${kind}=${number}&as=operator`, { event: take, resumed, state: showState });
  return stream.start(cursor);
}

begin();
