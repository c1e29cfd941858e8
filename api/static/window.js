/** The client's window: one conversation, live, on a page of its own or in a frame that embed.js opens. */

import { Refused, untilReached } from "./api.js";
import { byId, el, showProblem } from "./dom.js";
import { showLink } from "./link.js";
import { watchStore } from "./store.js";
import { Stream } from "./stream.js";
import { Talk } from "./talk.js";

const conversation_id = Number(location.pathname.split("/").at(-1));
const query = new URLSearchParams(location.search);
const parties = { client_id: Number(query.get("client_id")), operator_id: Number(query.get("operator_id")) };
const framedBy = query.get("embedded"); // the origin of the page that embed.js runs in

let lookAtStore = null;
let stream = null;

const talk = new Talk(conversation_id, "client", parties, {
  changed: showHead,
  accepted() {
    if (!lookAtStore) load(); // the first chat: the conversation has begun
  },
  problem: showProblem,
});

function showHead() {
  const { conversation } = talk;
  const name = conversation.operator_name ?? "the store";
  byId("name").textContent = conversation.operator_name ?? "Chat with the store";
  byId("presence").textContent = conversation.present.operator ? "Here now. " : "";
  byId("presence").classList.toggle("present", conversation.present.operator === true);
  const unread = conversation.unread("client");
  document.title = `${unread ? `(${unread}) ` : ""}Chat with ${name}`;
  if (framedBy) parent.postMessage({ shoptalk: "unread", count: unread }, framedBy);
  if (conversation.store_id && !lookAtStore) {
    lookAtStore = watchStore(conversation.store_id, (store) => {
      byId("store").textContent = store.text;
    });
  }
}

function showState(state) {
  talk.link = state;
  showLink(byId("link"), state, stream?.retry);
  talk.changed();
}

/** Reads the conversation, trying until the server is there; false: it has not begun. */
async function load(options) {
  try {
    // Once there is a stream, it says how the connection stands.
    await untilReached(() => talk.load(options), () => stream || showState({ name: "reconnecting" }));
    return true;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status !== 404 || !parties.client_id || !parties.operator_id) throw error;
    return false;
  }
}

function take(event, data) {
  if (event === "reset") load();
  else if (data.conversation_id === null || data.conversation_id === conversation_id) talk.take(event, data);
}

function resumed() {
  load();
  lookAtStore?.();
}

async function begin() {
  showLink(byId("link"), { name: "connecting" });
  let begun;
  try {
    begun = await load({ opening: true });
  } catch (error) {
    byId("main").append(el("p", { class: "notice" }, error.message));
    byId("link").remove();
    return;
  }
  byId("main").append(talk.thread.element, talk.composer.element);
  if (!begun) byId("main").prepend(el("p", { class: "hello muted" }, "Write to the store: the answer comes here."));
  talk.changed();
  // A conversation that has not begun has no cursor: its stream begins with its first chat.
  const start = begun ? "" : "&from=start";
  stream = new Stream(`conversation_id=${conversation_id}&as=client${start}`, { event: take, resumed, state: showState });
  stream.start(talk.conversation.cursor);
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && framedBy) parent.postMessage({ shoptalk: "close" }, framedBy);
});
if (framedBy) addEventListener("focus", () => talk.composer.focus());
begin();
