/** The chats of a conversation as people read them: by day, with sender, time, and the status of one's own chats. */

/**
 * @import { Chat, Conversation, Party } from "./conversation.js"
 * @import { Item } from "./dom.js"
 * @import { Entry, Outbox } from "./outbox.js"
 */

/**
 * @typedef {object} ThreadView what a thread shows
 * @property {Conversation} conversation
 * @property {Party} party the reader
 * @property {Outbox} outbox
 * @property {(party: Party) => string} nameOf
 * @property {(chat: Chat) => void} edit
 * @property {(chat: Chat) => void} cancel
 *
 * @typedef {object} Layout
 * @property {boolean} startsRun whether the sender's name stands above
 * @property {string} mark "Read", "Sent" or ""
 * @property {boolean} isStatusBelow the next chat shows the same status
 */

import { OTHER } from "./conversation.js";
import { el, linkify, updateList } from "./dom.js";
import { calendarDay, formatAtWhen, formatDay, formatFull, formatTime } from "./time.js";

const PAGE = 200; // chats shown at first, and more each time
const RUN_MS = 5 * 60_000; // consecutive chats of one sender within this time share one name
const BOTTOM_PX = 60; // this close to the end counts as the end

export class Thread {
  #view;
  #shown = PAGE;
  #isAtEnd = true;
  /** @type {number | null} seq of the first chat that was unread when the conversation was opened */
  #unreadFrom = null;

  /** @param {ThreadView} view */
  constructor(view) {
    this.#view = view;
    this.earlier = el(
      "button",
      { class: "small quiet", type: "button", onclick: () => this.#showEarlier() },
      "Show earlier chats",
    );
    this.list = el("ol", { class: "chats" });
    this.typing = el("p", { class: "typing muted small" });
    this.end = el("div", { class: "end" });
    this.latest = el(
      "button",
      { class: "latest small", type: "button", hidden: true, onclick: () => this.scrollToEnd() },
      "Newer chats below",
    );
    this.scroller = el(
      "div",
      { class: "scroller", tabindex: 0, role: "region", "aria-label": "Chats", onscroll: () => this.#updateAtEnd() },
      this.earlier, this.list, this.typing, this.end,
    );
    this.element = el("div", { class: "thread" }, this.scroller, this.latest);
  }

  get isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < BOTTOM_PX;
  }

  scrollToEnd() {
    this.#isAtEnd = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Remembers the first unread chat, for the line above it. */
  markUnread() {
    const { conversation, party } = this.#view;
    const unread = conversation
      .visibleTo(party)
      .find((chat) => chat.state === "sent" && chat.sender !== party && chat.seq > conversation.read[party]);
    this.#unreadFrom = unread?.seq ?? null;
  }

  render() {
    const { conversation, party, outbox } = this.#view;
    const chats = conversation.visibleTo(party);
    const visible = chats.slice(-this.#shown);
    this.earlier.hidden = visible.length === chats.length;
    // The stream may deliver a chat before its POST is answered; then it is in the conversation already.
    const unsent = outbox.entries.filter((entry) => !conversation.chats.has(entry.chat_id));
    updateList(this.list, [...this.#items(visible), ...unsent.map((entry) => this.#unsent(entry))]);
    const other = OTHER[party];
    this.typing.textContent = conversation.typingLeft(other) ? `${this.#view.nameOf(other)} is typing…` : "";
    if (this.#isAtEnd) this.scrollToEnd();
    this.#updateAtEnd();
  }

  #updateAtEnd() {
    this.#isAtEnd = this.isAtEnd;
    this.latest.hidden = this.#isAtEnd;
  }

  #showEarlier() {
    const { scrollHeight, scrollTop } = this.scroller;
    this.#shown += PAGE;
    this.#isAtEnd = false;
    this.render();
    this.scroller.scrollTop = scrollTop + this.scroller.scrollHeight - scrollHeight;
  }

  /** @param {Chat[]} chats */
  #items(chats) {
    const { conversation, party } = this.#view;
    const zone = conversation.timezone;
    const own = chats.filter((chat) => chat.sender === party && chat.state === "sent");
    const lastSent = own.at(-1);
    const lastRead = own.findLast((chat) => chat.seq <= conversation.read[OTHER[party]]);
    /** @type {Item[]} */
    const items = [];
    /** @type {Chat | null} */
    let previous = null;
    for (const [index, chat] of chats.entries()) {
      const date = calendarDay(chat.utc_date, zone);
      const isNewDay = !previous || calendarDay(previous.utc_date, zone) !== date;
      if (isNewDay) items.push(this.#line(`day ${date}`, formatDay(chat.utc_date, zone)));
      const isFirstUnread = chat.seq === this.#unreadFrom;
      if (isFirstUnread) items.push(this.#line("unread", "New"));
      const startsRun = isNewDay || isFirstUnread || !previous || !isSameRun(previous, chat);
      const mark = chat === lastRead ? "Read" : chat === lastSent ? "Sent" : "";
      items.push(this.#chat(chat, { startsRun, mark, isStatusBelow: isHeldAlike(chat, chats[index + 1]) }));
      previous = chat;
    }
    return items;
  }

  /**
   * A line across with a heading, one level below the page's own.
   * @param {string} key
   * @param {string} text
   */
  #line(key, text) {
    const level = this.#view.party === "client" ? "h2" : "h3";
    const classes = `line ${key === "unread" ? "unread" : ""}`;
    const make = () => el("li", { class: classes }, el(level, { class: "small" }, text));
    return { key, content: text, make };
  }

  /**
   * @param {Chat} chat
   * @param {Layout} layout
   */
  #chat(chat, layout) {
    const { timezone } = this.#view.conversation;
    const name = this.#view.nameOf(chat.sender);
    const { startsRun } = layout;
    return {
      key: `chat ${chat.chat_id}`,
      content: JSON.stringify([chat, layout, name, timezone, calendarDay(Date.now(), timezone)]),
      make: () => {
        const isMine = chat.sender === this.#view.party;
        const tooltip = formatFull(chat.utc_date, timezone);
        return el(
          "li",
          { class: `chat ${isMine ? "mine" : "theirs"} ${chat.state} ${startsRun ? "starts" : ""}` },
          el("p", { class: startsRun && !isMine ? "who small" : "visually-hidden" }, name),
          el(
            "div",
            { class: "bubble" },
            el("p", { class: "text", dir: "auto" }, ...linkify(chat.payload)),
            el("time", { datetime: chat.utc_date, title: tooltip }, formatTime(chat.utc_date, timezone)),
          ),
          this.#status(chat, isMine, layout),
        );
      },
    };
  }

  /**
   * The chat's status in words, with buttons for what the sender can do.
   * @param {Chat} chat
   * @param {boolean} isMine
   * @param {Layout} layout
   */
  #status(chat, isMine, { mark, isStatusBelow }) {
    const text = describeStatus(chat, this.#view.party, this.#view.conversation.timezone);
    if (!text) return mark ? el("p", { class: "standing small muted" }, mark) : null;
    const isPending = isMine && (chat.state === "held" || chat.state === "queued");
    const line = el("p", { class: `standing small ${chat.state}` }, !isStatusBelow && el("span", {}, text));
    /**
     * @param {string} label
     * @param {(chat: Chat) => void} act
     */
    const button = (label, act) => el("button", { class: "small", type: "button", onclick: () => act(chat) }, label);
    if (isPending && chat.state === "held") line.append(button("Edit", this.#view.edit));
    if (isPending) line.append(button("Cancel", this.#view.cancel));
    return line;
  }

  /**
   * A chat that the API has not accepted yet.
   * @param {Entry} entry
   */
  #unsent(entry) {
    const { conversation, party } = this.#view;
    return {
      key: `chat ${entry.chat_id}`,
      content: JSON.stringify(entry),
      make: () =>
        el(
          "li",
          { class: "chat mine unsent starts" },
          el("p", { class: "visually-hidden" }, this.#view.nameOf(party)),
          el(
            "div",
            { class: "bubble" },
            el("p", { class: "text", dir: "auto" }, ...linkify(entry.payload)),
            el("time", {}, formatTime(entry.at, conversation.timezone)),
          ),
          el("p", { class: `standing small ${entry.problem || entry.waiting ? "failed" : ""}` }, ...this.#delay(entry)),
        ),
    };
  }

  /**
   * Why the chat is not accepted yet, with buttons for what the sender can do.
   * @param {Entry} entry
   */
  #delay({ chat_id, problem, waiting }) {
    const { outbox } = this.#view;
    /**
     * @param {string} text
     * @param {() => void} act
     */
    const button = (text, act) => el("button", { class: "small", type: "button", onclick: act }, text);
    if (problem) {
      return [
        el("span", {}, `Rejected: ${problem}`),
        button("Try again", () => outbox.retry(chat_id)),
        button("Discard", () => outbox.discard(chat_id)),
      ];
    }
    if (!waiting) return ["Sending…"];
    return [el("span", {}, "Not sent yet, no connection. Trying again…"), button("Try now", outbox.drain)];
  }
}

/**
 * The status of a chat for the given reader; undefined for a sent chat.
 * @param {Chat} chat
 * @param {Party} party
 * @param {string} timezone
 * @returns {string | undefined}
 */
export function describeStatus({ sender, state, release_at }, party, timezone) {
  const isMine = sender === party;
  if (state === "held") {
    if (!release_at) return "Held: the store has no opening scheduled";
    const opening = formatAtWhen(release_at, timezone);
    if (party === "client") return `The store opens ${opening}; your message will be sent then.`;
    return `Held until the store opens; ${isMine ? "will be sent" : "arrives"} ${opening}`;
  }
  if (state === "queued") return "On its way…";
  if (state === "failed") return "Could not be sent";
  if (state === "cancelled") return isMine ? "Cancelled, not sent" : "Cancelled before it was sent";
  return undefined;
}

/**
 * Whether the chat continues the run of the previous one, under the same name.
 * @param {Chat} previous
 * @param {Chat} chat
 */
export const isSameRun = (previous, chat) =>
  previous.sender === chat.sender && Date.parse(chat.utc_date) - Date.parse(previous.utc_date) < RUN_MS;

/**
 * Whether the next chat is held until the same instant and shows the status for both.
 * @param {Chat} chat
 * @param {Chat | undefined} next
 */
export const isHeldAlike = (chat, next) =>
  chat.state === "held" && next?.state === "held" && next.sender === chat.sender && next.release_at === chat.release_at;
