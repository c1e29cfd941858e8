/** Keyboard shortcuts of the desk: single keys, unless they are turned off in the settings, and Escape. */

import { byId } from "./dom.js";
import { loadItem } from "./storage.js";

/** @param {Element} element */
const isField = (element) => element.matches("input, textarea, select");

/**
 * Calls the action of a pressed key. The action of "Escape" gets the element that has the focus.
 * @param {Record<string, (target: HTMLElement) => void>} actions by KeyboardEvent.key
 */
export function listenForShortcuts(actions) {
  byId("open-help").addEventListener("click", () => byId("help", HTMLDialogElement).showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { key } = event;
    const target = /** @type {HTMLElement} */ (event.target);
    if (key === "Escape") return actions.Escape(target);
    if (isField(target) || !loadItem("single-keys", true) || !Object.hasOwn(actions, key)) return;
    // Leave the arrow keys to a scrollable element, and Enter to the focused link or button.
    if (key.startsWith("Arrow") && target.matches(".scroller")) return;
    if (key === "Enter" && target !== document.body) return;
    event.preventDefault();
    actions[key](target);
  });
}
