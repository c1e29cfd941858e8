/** The desk's keyboard: single keys, unless turned off, and Esc. What each does is the caller's. */

import { byId } from "./dom.js";
import { kept } from "./kept.js";

const writing = (element) => element.matches("input, textarea, select");

/** `actions`: key -> function, "Escape" with the element it was pressed in. */
export function listen(actions) {
  byId("open-help").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { key, target } = event;
    if (key === "Escape") return actions.Escape(target);
    if (writing(target) || !kept("single-keys", true) || !actions[key]) return;
    // The arrows scroll what can be scrolled, Enter presses what can be pressed.
    if (key.startsWith("Arrow") && target.matches(".scroller")) return;
    if (key === "Enter" && target !== document.body) return;
    event.preventDefault();
    actions[key]();
  });
}
