/** Gets an API key or token, once for all requests that wait for it: from the embedding page, or from the person. */

import { el } from "./dom.js";
import { loadCredential, saveCredential } from "./storage.js";

const RENEWAL_MS = 10_000;

/** @type {Promise<boolean> | null} */
let pending = null;

/**
 * Resolves to true once there is a credential other than the rejected one; to false if the embedding page has none yet
 * and is to be asked again.
 * @param {string | null} rejected
 * @returns {Promise<boolean>}
 */
export function signIn(rejected) {
  if (loadCredential() !== rejected) return Promise.resolve(true);
  pending ??= requestNewToken(rejected)
    .then((renewed) => (renewed === null ? askForKey(rejected) : renewed))
    .finally(() => {
      pending = null;
    });
  return pending;
}

/**
 * Asks the page that embed.js runs in for a new token. Resolves to true: it is stored; false: the page has none now but
 * may have one later; null: the page never has one, or there is no such page.
 * @param {string | null} rejected
 * @returns {Promise<boolean | null>}
 */
function requestNewToken(rejected) {
  const embedder = new URLSearchParams(location.search).get("embedded");
  if (!embedder || parent === window) return Promise.resolve(null);
  return new Promise((resolve) => {
    /** @param {boolean | null} result */
    const finish = (result) => {
      clearTimeout(timer);
      removeEventListener("message", receive);
      resolve(result);
    };
    /** @param {MessageEvent} message */
    const receive = ({ origin, source, data }) => {
      if (origin !== embedder || source !== parent || data?.shoptalk !== "token") return;
      const isNew = typeof data.token === "string" && data.token !== rejected;
      if (isNew) saveCredential(data.token);
      finish(isNew || (data.again ? false : null));
    };
    const timer = setTimeout(finish, RENEWAL_MS, false);
    addEventListener("message", receive);
    parent.postMessage({ shoptalk: "token" }, embedder);
  });
}

/**
 * The sentence about a rejected credential; a token, unlike an API key, has a dot in it.
 * @param {string} rejected
 */
export function explainRejection(rejected) {
  if (rejected.includes(".")) return "Your session has expired. Please reopen the chat from the shop's page.";
  return "Unknown API key.";
}

/**
 * @param {string | null} rejected
 * @returns {Promise<boolean>}
 */
function askForKey(rejected) {
  const input = el("input", { id: "api-key", type: "password", required: true, autocomplete: "off" });
  const form = el(
    "form",
    { class: "field", method: "dialog" },
    el("h2", {}, "Sign in"),
    el("p", { class: "muted" }, "Enter an API key or a token. It is forgotten when you close this tab."),
    rejected && el("p", { class: "error", role: "alert" }, explainRejection(rejected)),
    el("label", { for: "api-key" }, "API key"),
    input,
    el("button", { class: "primary" }, "Continue"),
  );
  const dialog = el("dialog", { "aria-label": "API key" }, form);
  document.body.append(dialog);
  dialog.showModal();
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without a key
  dialog.addEventListener("close", () => dialog.isConnected && dialog.showModal()); // a second Escape closes it anyway
  return new Promise((resolve) => {
    form.addEventListener("submit", () => {
      saveCredential(input.value.trim());
      dialog.remove();
      resolve(true);
    });
  });
}
