/** A conversation as it is read: day by day, who said what and when, and how each chat of ours stands. */

import { OTHER } from "./conversation.js";
import { el, linked, show } from "./dom.js";
import { clock, day, dayName, full, when } from "./time.js";

const PAGE = 200; // chats shown at first, and more each time
const RUN_MS = 5 * 60_000; // chats of one person within this are one run, under one name
const BOTTOM_PX = 60; // so near to the end counts as at the end

export class Thread {
  #talk;
  #shown = PAGE;
  #atEnd = true;
  #unreadFrom = null; // seq of the first that was unread when the conversation was opened

  /** `talk` has conversation, party, outbox, link, nameOf(party) and cancel(chat). */
  constructor(talk) {
    this.#talk = talk;
    this.earlier = el("button", { class: "small quiet", type: "button", onclick: () => this.#more() }, "Show earlier chats");
    this.list = el("ol", { class: "chats" });
    this.typing = el("p", { class: "typing muted small" });
    this.end = el("div", { class: "end" });
    this.latest = el(
      "button",
      { class: "latest small", type: "button", hidden: true, onclick: () => this.toEnd() },
      "Newer chats below",
    );
    this.scroller = el(
      "div",
      { class: "scroller", tabindex: 0, role: "region", "aria-label": "Chats", onscroll: () => this.#scrolled() },
      this.earlier, this.list, this.typing, this.end,
    );
    this.element = el("div", { class: "thread" }, this.scroller, this.latest);
  }

  get atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < BOTTOM_PX;
  }

  toEnd() {
    this.#atEnd = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Remembers what is unread now, for the line above it. */
  opened() {
    const { conversation, party } = this.#talk;
    const unread = conversation
      .seenBy(party)
      .find((chat) => chat.state === "sent" && chat.sender !== party && chat.seq > conversation.read[party]);
    this.#unreadFrom = unread?.seq ?? null;
  }

  render() {
    const { conversation, party, outbox } = this.#talk;
    const chats = conversation.seenBy(party);
    const visible = chats.slice(-this.#shown);
    this.earlier.hidden = visible.length === chats.length;
    // The stream may bring a chat before the answer to its POST: then it stands there once already.
    const unsent = outbox.entries.filter((entry) => !conversation.chats.has(entry.chat_id));
    show(this.list, [...this.#items(visible), ...unsent.map((entry) => this.#unsent(entry))]);
    const other = OTHER[party];
    this.typing.textContent = conversation.typing(other) ? `${this.#talk.nameOf(other)} is typing…` : "";
    if (this.#atEnd) this.toEnd();
    this.#scrolled();
  }

  #scrolled() {
    this.#atEnd = this.atEnd;
    this.latest.hidden = this.#atEnd;
  }

  #more() {
    const { scrollHeight, scrollTop } = this.scroller;
    this.#shown += PAGE;
    this.#atEnd = false;
    this.render();
    this.scroller.scrollTop = scrollTop + this.scroller.scrollHeight - scrollHeight;
  }

  #items(chats) {
    const { conversation, party } = this.#talk;
    const zone = conversation.timezone;
    const own = chats.filter((chat) => chat.sender === party && chat.state === "sent");
    const lastSent = own.at(-1);
    const lastRead = own.findLast((chat) => chat.seq <= conversation.read[OTHER[party]]);
    const items = [];
    let before = null;
    for (const [place, chat] of chats.entries()) {
      const date = day(chat.utc_date, zone);
      const newDay = !before || day(before.utc_date, zone) !== date;
      if (newDay) items.push(this.#line(`day ${date}`, dayName(chat.utc_date, zone)));
      const isFirstUnread = chat.seq === this.#unreadFrom;
      if (isFirstUnread) items.push(this.#line("unread", "New"));
      const starts = newDay || isFirstUnread || !sameRun(before, chat);
      const mark = chat === lastRead ? "Read" : chat === lastSent ? "Sent" : "";
      items.push(this.#chat(chat, { starts, mark, saidBelow: heldAlike(chat, chats[place + 1]) }));
      before = chat;
    }
    return items;
  }

  /** A line across with a heading in it, of the level below the page's own. */
  #line(key, text) {
    const level = this.#talk.party === "client" ? "h2" : "h3";
    const make = () => el("li", { class: `line ${key === "unread" ? "unread" : ""}` }, el(level, { class: "small" }, text));
    return { key, content: text, make };
  }

  #chat(chat, how) {
    const { timezone } = this.#talk.conversation;
    const name = this.#talk.nameOf(chat.sender);
    const { starts } = how;
    return {
      key: `chat ${chat.chat_id}`,
      content: JSON.stringify([chat, how, name, timezone, day(Date.now(), timezone)]),
      make: () => {
        const mine = chat.sender === this.#talk.party;
        return el(
          "li",
          { class: `chat ${mine ? "mine" : "theirs"} ${chat.state} ${starts ? "starts" : ""}` },
          el("p", { class: starts && !mine ? "who small" : "visually-hidden" }, name),
          el(
            "div",
            { class: "said" },
            el("p", { class: "text", dir: "auto" }, ...linked(chat.payload)),
            el("time", { datetime: chat.utc_date, title: full(chat.utc_date, timezone) }, clock(chat.utc_date, timezone)),
          ),
          this.#standing(chat, mine, how),
        );
      },
    };
  }

  /** How the chat stands, in words, with what can be done about it. */
  #standing(chat, mine, { mark, saidBelow }) {
    const text = this.#words(chat, mine);
    if (!text) return mark && el("p", { class: "standing small muted" }, mark);
    const waits = mine && (chat.state === "held" || chat.state === "queued");
    const line = el("p", { class: `standing small ${chat.state}` }, !saidBelow && el("span", {}, text));
    const button = (label, act) => el("button", { class: "small", type: "button", onclick: () => act(chat) }, label);
    if (waits && chat.state === "held") line.append(button("Edit", this.#talk.edit));
    if (waits) line.append(button("Cancel", this.#talk.cancel));
    return line;
  }

  #words({ state, release_at }, mine) {
    if (state === "held" && !release_at) return "Held: the store has no opening ahead";
    if (state === "held") {
      const at = when(release_at, this.#talk.conversation.timezone);
      if (this.#talk.party === "client") return `The store opens ${plainly(at)}, your message goes then.`;
      return `Held until the store opens, ${mine ? "goes" : "comes"} ${plainly(at)}`;
    }
    return {
      queued: "On its way…",
      failed: "Could not be sent",
      cancelled: mine ? "Cancelled, not sent" : "Cancelled before it was sent",
    }[state];
  }

  /** A chat that the API has not accepted yet. */
  #unsent(entry) {
    const { conversation, party } = this.#talk;
    return {
      key: `chat ${entry.chat_id}`,
      content: JSON.stringify(entry),
      make: () =>
        el(
          "li",
          { class: "chat mine unsent starts" },
          el("p", { class: "visually-hidden" }, this.#talk.nameOf(party)),
          el(
            "div",
            { class: "said" },
            el("p", { class: "text", dir: "auto" }, ...linked(entry.payload)),
            el("time", {}, clock(entry.at, conversation.timezone)),
          ),
          el("p", { class: `standing small ${entry.problem || entry.waiting ? "failed" : ""}` }, ...this.#delay(entry)),
        ),
    };
  }

  /** Why it is not accepted yet, with what can be done about it. */
  #delay({ chat_id, problem, waiting }) {
    const { outbox } = this.#talk;
    const button = (text, act) => el("button", { class: "small", type: "button", onclick: act }, text);
    if (problem) {
      return [
        el("span", {}, `Refused: ${problem}`),
        button("Try again", () => outbox.retry(chat_id)),
        button("Discard", () => outbox.discard(chat_id)),
      ];
    }
    if (!waiting) return ["Sending…"];
    return [el("span", {}, "Not sent yet, no connection. Trying again…"), button("Try now", outbox.drain)];
  }
}

const sameRun = (before, chat) =>
  before.sender === chat.sender && new Date(chat.utc_date) - new Date(before.utc_date) < RUN_MS;

/** Whether the next one is held as this one is, and says so for both. */
const heldAlike = (chat, next) =>
  chat.state === "held" && next?.state === "held" && next.sender === chat.sender && next.release_at === chat.release_at;

/** "at 09:00", but "tomorrow at 09:00" */
const plainly = (at) => (/^\d/.test(at) ? `at ${at}` : /^[A-Z]/.test(at) ? `on ${at}` : at);
