/** The field to write a chat in: Enter sends, Shift+Enter starts a new line, the draft is stored. */

import { el } from "./dom.js";
import { loadItem, saveItem } from "./storage.js";

export const MAX_CHARACTERS = 299; // code points, as the API counts
const COUNT_FROM = 200; // the count is shown from here on
const TYPING_EVERY_MS = 3000;

/** On a touch keyboard, which has no Shift+Enter, Enter starts a new line and the button sends. */
const isTouch = () => matchMedia("(pointer: coarse)").matches;

/** @typedef {(text: string) => Promise<boolean>} SaveEdit whether the new text is saved */

export class Composer {
  #key;
  #handlers;
  #typingSentAt = 0;
  /** @type {SaveEdit | null} set while an existing chat is edited */
  #saveEdit = null;
  #isSaving = false;

  /**
   * @param {string} key under which the draft is stored
   * @param {string} label
   * @param {{onSend: (text: string) => void, onTyping: () => void}} handlers
   */
  constructor(key, label, handlers) {
    this.#key = `draft:${key}`;
    this.#handlers = handlers;
    this.field = el("textarea", {
      id: "composer", rows: 1, placeholder: label, "aria-label": label, "aria-describedby": "composer-count",
      enterkeyhint: "send", autocomplete: "off",
      oninput: () => this.#handleInput(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#handleKey(event),
    });
    this.count = el("p", { id: "composer-count", class: "count small muted numbers" });
    this.button = el("button", { class: "primary", type: "submit" }, "Send");
    const onsubmit = (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      this.#submit();
    };
    this.element = el("form", { class: "composer", onsubmit }, this.field, this.count, this.button);
    this.field.value = loadItem(this.#key, "");
    this.#fit();
  }

  focus() {
    this.field.focus();
  }

  /**
   * Starts editing the text of an existing chat. The text stays in the field until `save` has succeeded; Escape leaves
   * the chat unchanged.
   * @param {string} text
   * @param {SaveEdit} save
   */
  edit(text, save) {
    this.#saveEdit = save;
    this.button.textContent = "Save";
    this.field.value = text;
    this.#fit();
    this.focus();
  }

  /** Returns to writing, with the draft from before. */
  #endEdit() {
    this.#saveEdit = null;
    this.button.textContent = "Send";
    this.field.value = loadItem(this.#key, "");
    this.#fit();
  }

  #handleInput() {
    if (!this.#saveEdit) saveItem(this.#key, this.field.value);
    this.#fit();
    if (!this.field.value.trim() || Date.now() - this.#typingSentAt < TYPING_EVERY_MS) return;
    this.#typingSentAt = Date.now();
    this.#handlers.onTyping();
  }

  /** @param {KeyboardEvent} event */
  #handleKey(event) {
    if (event.key === "Escape" && this.#saveEdit) {
      event.stopPropagation();
      return this.#endEdit();
    }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || isTouch()) return;
    event.preventDefault();
    this.#submit();
  }

  #submit() {
    const text = this.field.value.trim();
    if (!text || [...text].length > MAX_CHARACTERS) return;
    if (this.#saveEdit) {
      this.#submitEdit(text, this.#saveEdit);
      return;
    }
    this.#handlers.onSend(text);
    this.field.value = "";
    this.#typingSentAt = 0;
    saveItem(this.#key, "");
    this.#fit();
  }

  /**
   * @param {string} text
   * @param {SaveEdit} save
   */
  async #submitEdit(text, save) {
    if (this.#isSaving) return;
    this.#isSaving = true;
    const isSaved = await save(text);
    this.#isSaving = false;
    if (isSaved && this.#saveEdit === save) this.#endEdit();
  }

  /** Makes the field as high as its text, and shows the count of characters close to the limit. */
  #fit() {
    const characters = [...this.field.value.trim()].length;
    const excess = characters - MAX_CHARACTERS;
    const count = characters >= COUNT_FROM ? `${characters} of ${MAX_CHARACTERS}` : "";
    this.count.textContent = excess > 0 ? `${excess} too many` : count;
    this.count.classList.toggle("error", excess > 0);
    this.field.setAttribute("aria-invalid", String(excess > 0));
    this.button.disabled = excess > 0;
    this.field.style.height = "auto";
    if (this.field.scrollHeight) this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }
}
