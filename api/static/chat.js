/** The client's chat window: one conversation, live, on a page of its own or in a frame that embed.js opens. */

/** @import { StreamState } from "./stream.js" */

import { messageOf, RejectedError, retryUntilReached } from "./api.js";
import { showConnection } from "./connection.js";
import { ConversationView } from "./conversation-view.js";
import { byId, el, showProblem } from "./dom.js";
import { takeToken } from "./storage.js";
import { watchStore } from "./store-status.js";
import { Stream } from "./stream.js";

const conversation_id = Number(location.pathname.split("/").at(-1));
const query = new URLSearchParams(location.search);
const parties = { client_id: Number(query.get("client_id")), operator_id: Number(query.get("operator_id")) };
const embedder = query.get("embedded"); // the origin of the page that embed.js runs in

/** @type {(() => void) | null} */
let refreshStore = null;
/** @type {Stream | null} */
let stream = null;

const view = new ConversationView(conversation_id, "client", parties, {
  onChange: showHead,
  onAccepted() {
    if (!refreshStore) load(); // the first chat has created the conversation
  },
  onProblem: showProblem,
});

/** @param {ConversationView} changed */
function showHead({ conversation }) {
  const { operator_name, present, store_id } = conversation;
  byId("name").textContent = operator_name ?? "Chat with the store";
  byId("presence").textContent = present.operator ? "Online. " : "";
  byId("presence").classList.toggle("present", present.operator === true);
  const unread = conversation.countUnread("client");
  document.title = `${unread ? `(${unread}) ` : ""}Chat with ${operator_name ?? "the store"}`;
  if (embedder) parent.postMessage({ shoptalk: "unread", count: unread }, embedder);
  if (store_id && !refreshStore) {
    refreshStore = watchStore(store_id, (store) => {
      byId("store").textContent = store.text;
    });
  }
}

/** @param {StreamState} state */
const showState = (state) => showConnection(byId("link"), state, stream?.retry);

/**
 * Reads the conversation, trying until the server is reached. Returns whether the conversation exists.
 * @param {{opening?: boolean}} [options]
 */
async function load(options) {
  try {
    // Once there is a stream, the stream reports the state of the connection.
    await retryUntilReached(() => view.load(options), () => stream || showState({ name: "reconnecting" }));
    return true;
  } catch (error) {
    if (!(error instanceof RejectedError)) throw error;
    if (error.status !== 404 || !parties.client_id || !parties.operator_id) throw error;
    return false;
  }
}

/**
 * @param {string} event
 * @param {any} data
 */
function handleEvent(event, data) {
  if (event === "reset") load();
  else if (data.conversation_id === null || data.conversation_id === conversation_id) view.handleEvent(event, data);
}

function handleResume() {
  load();
  refreshStore?.();
}

async function start() {
  takeToken();
  showConnection(byId("link"), { name: "connecting" });
  let exists;
  try {
    exists = await load({ opening: true });
  } catch (error) {
    byId("main").append(el("p", { class: "notice" }, messageOf(error)));
    byId("link").remove();
    return;
  }
  byId("main").append(view.thread.element, view.composer.element);
  if (!exists) {
    byId("main").prepend(el("p", { class: "hello muted" }, "Write to the store. The answer appears here."));
  }
  view.update();
  // A conversation that does not exist yet has no cursor: its stream starts with its first chat.
  const from = exists ? "" : "&from=start";
  const handlers = { onEvent: handleEvent, onResume: handleResume, onState: showState };
  stream = new Stream(`conversation_id=${conversation_id}&as=client${from}`, handlers);
  stream.start(view.conversation.cursor);
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && embedder) parent.postMessage({ shoptalk: "close" }, embedder);
});
if (embedder) addEventListener("focus", () => view.composer.focus());
start();
