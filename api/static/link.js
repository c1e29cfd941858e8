/** How the connection stands, in a word: live, reconnecting since when, offline. */

import { announce, el } from "./dom.js";
import { clock, HERE } from "./time.js";

const WORDS = { connecting: "Connecting…", live: "Live", reconnecting: "Reconnecting", offline: "Offline", refused: "Refused" };

/** Shows the state of a Stream in `place`; `retry` is for the button. */
export function showLink(place, { name, since, reason }, retry) {
  const after = since ? ` since ${clock(since, HERE)}` : reason ? `: ${reason}` : "";
  const before = place.dataset.state;
  place.dataset.state = name;
  place.replaceChildren(el("span", { class: "dot", "aria-hidden": "true" }), el("span", {}, WORDS[name] + after));
  if (name === "reconnecting" || name === "offline") {
    place.append(el("button", { class: "small quiet", type: "button", onclick: retry }, "Try now"));
  }
  if (before !== name && !(before === "connecting" && name === "live")) announce(`Connection: ${WORDS[name]}${after}`);
}
