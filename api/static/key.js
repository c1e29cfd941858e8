/** Asks for an API key, once for all calls that wait for one. */

import { el } from "./dom.js";
import { apiKey, keepApiKey } from "./kept.js";

let asking = null;

/** Returns once there is another key than `refused`. */
export function askForKey(refused) {
  if (apiKey() !== refused) return Promise.resolve();
  asking ??= dialog(Boolean(refused)).finally(() => {
    asking = null;
  });
  return asking;
}

function dialog(again) {
  const field = el("input", { id: "api-key", type: "password", required: true, autocomplete: "off" });
  const form = el(
    "form",
    { class: "field", method: "dialog" },
    el("h2", {}, "This Shoptalk asks for a key"),
    el("p", { class: "muted" }, "One of SHOPTALK_API_KEYS. It is kept until this tab is closed."),
    again && el("p", { class: "error", role: "alert" }, "That key is not known here."),
    el("label", { for: "api-key" }, "API key"),
    field,
    el("button", { class: "primary" }, "Go on"),
  );
  const box = el("dialog", { "aria-label": "API key" }, form);
  document.body.append(box);
  box.showModal();
  box.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without it
  return new Promise((done) => {
    form.addEventListener("submit", () => {
      keepApiKey(field.value.trim());
      box.remove();
      done();
    });
  });
}
