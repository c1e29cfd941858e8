/** Gets an API key or token, once for all calls that wait for one: from the page around this one, or from the person. */

import { el } from "./dom.js";
import { apiKey, keepApiKey } from "./kept.js";

const RENEWAL_MS = 10_000;

let asking = null;

/** Returns once there is another key than `refused`; false: the page around this one has none yet, ask again. */
export function askForKey(refused) {
  if (apiKey() !== refused) return Promise.resolve(true);
  asking ??= renewed(refused).then((found) => (found === null ? dialog(refused) : found)).finally(() => {
    asking = null;
  });
  return asking;
}

/** Asks the page that embed.js runs in for a new token; false: it has none now, but may later; null: it never has. */
function renewed(refused) {
  const around = new URLSearchParams(location.search).get("embedded");
  if (!around || parent === window) return Promise.resolve(null);
  return new Promise((done) => {
    const end = (found) => {
      clearTimeout(timer);
      removeEventListener("message", hear);
      done(found);
    };
    const hear = ({ origin, source, data }) => {
      if (origin !== around || source !== parent || data?.shoptalk !== "token") return;
      const good = typeof data.token === "string" && data.token !== refused;
      if (good) keepApiKey(data.token);
      end(good || (data.again ? false : null));
    };
    const timer = setTimeout(end, RENEWAL_MS, false);
    addEventListener("message", hear);
    parent.postMessage({ shoptalk: "token" }, around);
  });
}

function dialog(refused) {
  const isToken = refused?.includes(".");
  const field = el("input", { id: "api-key", type: "password", required: true, autocomplete: "off" });
  const form = el(
    "form",
    { class: "field", method: "dialog" },
    el("h2", {}, "This Shoptalk asks for a key"),
    el("p", { class: "muted" }, "A key, or a token that one has made. It is kept until this tab is closed."),
    refused && el("p", { class: "error", role: "alert" }, isToken ? "Your pass has expired: open this page anew from where you came." : "That key is not known here."),
    el("label", { for: "api-key" }, "API key"),
    field,
    el("button", { class: "primary" }, "Go on"),
  );
  const box = el("dialog", { "aria-label": "API key" }, form);
  document.body.append(box);
  box.showModal();
  box.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without it
  box.addEventListener("close", () => box.isConnected && box.showModal()); // a second Escape closes it all the same
  return new Promise((done) => {
    form.addEventListener("submit", () => {
      keepApiKey(field.value.trim());
      box.remove();
      done(true);
    });
  });
}
