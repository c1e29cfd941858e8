/**
 * Adds a chat bubble to a shop's page:
 *   <script src="https://chat.example/embed.js" data-conversation="7" data-client="1" data-operator="1" defer></script>
 * data-label is the text of the button ("Chat with us"); data-side="left" moves it to the left. If Shoptalk requires
 * keys, data-token is a token that the shop's server has created for this conversation, and data-token-url an address
 * of the shop that answers {"token": …} for the signed-in customer. It is requested at the start and when a token has
 * expired.
 */
(() => {
  const script = /** @type {HTMLScriptElement} */ (document.currentScript);
  const { conversation = "", client, operator, token, tokenUrl } = script.dataset;
  const { label = "Chat with us", side = "right" } = script.dataset;
  const home = new URL(script.src).origin;

  const style = new CSSStyleSheet(); // not <style>: the shop's Content-Security-Policy may forbid it
  style.replaceSync(`
    :host { all: initial; position: fixed; bottom: 20px; ${side === "left" ? "left" : "right"}: 20px; z-index: 2147483000;
      display: grid; gap: 12px; justify-items: ${side === "left" ? "start" : "end"}; color-scheme: light dark;
      font: 600 15px/1.2 system-ui, sans-serif; }
    iframe { width: min(380px, calc(100vw - 40px)); height: min(600px, calc(100vh - 120px)); border: 1px solid rgb(128 128 128 / 40%);
      border-radius: 14px; background: Canvas; box-shadow: 0 8px 32px rgb(0 0 0 / 25%); }
    iframe[hidden] { display: none; }
    button { display: inline-flex; align-items: center; gap: 10px; min-height: 52px; padding: 0 20px; border: 0;
      border-radius: 26px; background: #0b665a; color: #fff; font: inherit; cursor: pointer; box-shadow: 0 4px 16px rgb(0 0 0 / 25%); }
    button:hover { background: #084c43; }
    button:focus-visible { outline: 3px solid #fff; box-shadow: 0 0 0 6px #1a5fd0; }
    b { min-width: 20px; padding: 2px 6px; border-radius: 12px; background: #fff; color: #084c43; font-size: 13px; text-align: center; }
    b[hidden] { display: none; }`);

  const frame = document.createElement("iframe");
  const button = document.createElement("button");
  const badge = document.createElement("b");
  const name = document.createElement("span");

  function start() {
    const address = new URL(`/chat/${encodeURIComponent(conversation)}`, home);
    address.searchParams.set("embedded", location.origin);
    if (client) address.searchParams.set("client_id", client);
    if (operator) address.searchParams.set("operator_id", operator);
    if (token) address.hash = `token=${token}`; // a fragment is not sent to any server
    frame.src = address.href;
    frame.title = label;
    frame.hidden = true;
    badge.hidden = true;
    name.textContent = label;
    button.type = "button";
    button.append(name, badge);
    button.addEventListener("click", () => toggle(frame.hidden === true));
    toggle(false);
    const host = document.createElement("div");
    const root = host.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [style];
    root.append(frame, button);
    document.body.append(host);
    addEventListener("message", receive);
  }

  /** @param {boolean} isOpen */
  function toggle(isOpen) {
    frame.hidden = !isOpen;
    name.textContent = isOpen ? "Close" : label;
    button.setAttribute("aria-expanded", String(isOpen));
    button.setAttribute("aria-label", isOpen ? "Close the chat" : label);
    if (isOpen) frame.focus();
  }

  /**
   * Handles a message of the chat window. Messages from anywhere else are ignored.
   * @param {MessageEvent} message
   */
  function receive({ origin, source, data }) {
    if (origin !== home || source !== frame.contentWindow) return;
    if (data.shoptalk === "unread") {
      const count = Number(data.count);
      badge.hidden = !count;
      badge.textContent = count > 99 ? "99+" : String(count);
      if (frame.hidden) button.setAttribute("aria-label", count ? `${label}, ${count} unread` : label);
    }
    if (data.shoptalk === "token") sendToken();
    if (data.shoptalk === "close" && !frame.hidden) {
      toggle(false);
      button.focus();
    }
  }

  /** Sends a new token to the chat window, or null if there is none; `again` says whether there may be one later. */
  async function sendToken() {
    let renewed = null;
    try {
      if (tokenUrl) renewed = (await (await fetch(tokenUrl, { cache: "no-store" })).json()).token;
    } catch {
      // The shop's server is down; the chat window asks again.
    }
    frame.contentWindow?.postMessage({ shoptalk: "token", token: renewed, again: Boolean(tokenUrl) }, home);
  }

  if (document.body) start();
  else addEventListener("DOMContentLoaded", start);
})();
