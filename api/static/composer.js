/** The field to write a chat in: Enter sends, Shift+Enter is a new line, the draft is kept. */

import { el } from "./dom.js";
import { keep, kept } from "./kept.js";

export const LONGEST = 299; // characters, as the API counts them: code points
const COUNT_FROM = 200; // shown from here on
const TYPING_EVERY_MS = 3000;

/** On a touch keyboard Enter is a new line: there is no Shift+Enter, and a button to send. */
const touch = matchMedia("(pointer: coarse)");

export class Composer {
  #key;
  #on;
  #typed = 0;
  #save = null; // while a chat is edited: what takes its new text
  #saving = false;

  /** `on`: send(text) and typing(). */
  constructor(key, label, on) {
    this.#key = `draft:${key}`;
    this.#on = on;
    this.field = el("textarea", {
      id: "composer", rows: 1, placeholder: label, "aria-label": label, "aria-describedby": "composer-count",
      enterkeyhint: "send", autocomplete: "off",
      oninput: () => this.#input(), onkeydown: (event) => this.#press(event),
    });
    this.count = el("p", { id: "composer-count", class: "count small muted numbers" });
    this.button = el("button", { class: "primary", type: "submit" }, "Send");
    this.element = el(
      "form",
      { class: "composer", onsubmit: (event) => { event.preventDefault(); this.#send(); } },
      this.field, this.count, this.button,
    );
    this.field.value = kept(this.#key, "");
    this.#fit();
  }

  focus() {
    this.field.focus();
  }

  /** Edits the text of a chat that is there already: `save` gets the new one and says whether that went well. Until it has,
   * the text stays in the field. Escape leaves the chat as it was. */
  edit(text, save) {
    this.#save = save;
    this.button.textContent = "Save";
    this.field.value = text;
    this.#fit();
    this.focus();
  }

  /** Back to writing, with the draft that was there. */
  #endEdit() {
    this.#save = null;
    this.button.textContent = "Send";
    this.field.value = kept(this.#key, "");
    this.#fit();
  }

  #input() {
    if (!this.#save) keep(this.#key, this.field.value);
    this.#fit();
    if (!this.field.value.trim() || Date.now() - this.#typed < TYPING_EVERY_MS) return;
    this.#typed = Date.now();
    this.#on.typing();
  }

  #press(event) {
    if (event.key === "Escape" && this.#save) {
      event.stopPropagation();
      return this.#endEdit();
    }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch.matches) return;
    event.preventDefault();
    this.#send();
  }

  #send() {
    const text = this.field.value.trim();
    if (!text || [...text].length > LONGEST) return;
    if (this.#save) return this.#saveEdit(text, this.#save);
    this.#on.send(text);
    this.field.value = "";
    this.#typed = 0;
    keep(this.#key, "");
    this.#fit();
  }

  async #saveEdit(text, save) {
    if (this.#saving) return;
    this.#saving = true;
    const saved = await save(text);
    this.#saving = false;
    if (saved && this.#save === save) this.#endEdit();
  }

  /** As high as its text, with how many characters are left once that matters. */
  #fit() {
    const characters = [...this.field.value.trim()].length;
    const over = characters - LONGEST;
    this.count.textContent =
      over > 0 ? `${over} too many` : characters >= COUNT_FROM ? `${characters} of ${LONGEST}` : "";
    this.count.classList.toggle("error", over > 0);
    this.field.setAttribute("aria-invalid", String(over > 0));
    this.button.disabled = over > 0;
    this.field.style.height = "auto";
    if (this.field.scrollHeight) this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }
}
