/** Shows the state of the live connection: live, reconnecting since when, offline, or rejected with the reason. */

/** @import { StreamState } from "./stream.js" */

import { announce, el } from "./dom.js";
import { formatTime, LOCAL_ZONE } from "./time.js";

/** @type {Record<StreamState["name"], string>} */
const WORDS = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting",
  offline: "Offline",
  rejected: "Not connected",
};

/**
 * @param {HTMLElement} element
 * @param {StreamState} state
 * @param {() => void} [retry] what the button "Try now" does
 */
export function showConnection(element, { name, since, reason }, retry) {
  const suffix = since ? ` since ${formatTime(since, LOCAL_ZONE)}` : reason ? `: ${reason}` : "";
  const previous = element.dataset.state;
  element.dataset.state = name;
  element.replaceChildren(el("span", { class: "dot", "aria-hidden": "true" }), el("span", {}, WORDS[name] + suffix));
  if (name === "reconnecting" || name === "offline") {
    element.append(el("button", { class: "small quiet", type: "button", onclick: retry }, "Try now"));
  }
  const isFirstConnect = previous === "connecting" && name === "live";
  if (previous !== name && !isFirstConnect) announce(`Connection: ${WORDS[name]}${suffix}`);
}
