/** The desk's view of the queue: the number of chats in each state, now and over the last hour. */

/**
 * @import { Chat } from "./conversation.js"
 *
 * @typedef {Chat["state"]} State
 *
 * @typedef {object} StateRow
 * @property {State} state
 * @property {number} chats
 * @property {string | null} oldest
 * @property {string | null} next_release
 *
 * @typedef {{at: string, held: number, queued: number, failed: number, sent: number}} Sample
 *
 * @typedef {[label: string, values: (number | null)[], colour: string]} Line
 */

import { call, messageOf } from "./api.js";
import { el } from "./dom.js";
import { formatDuration, formatTime, formatWhen, LOCAL_ZONE } from "./time.js";

const SAMPLE_MS = 30_000; // how often the worker samples the queue
const COLLECT_MS = 1000;
const RATE_MS = 5 * 60_000; // the current rate is averaged over this time
const NUMBERS = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1 });

const SENT = "Sent per minute";

/** @type {Record<State, string>} */
const NAMES = { queued: "Queued", held: "Held", failed: "Failed", sent: "Sent", cancelled: "Cancelled" };
/** @type {Record<State, string>} */
const MEANINGS = {
  queued: "due now",
  held: "until their store opens",
  failed: "need attention",
  sent: "in the log",
  cancelled: "before they were sent",
};

export class QueueView {
  #isShown = false;
  /** @type {number | undefined} */
  #timer;
  /** @type {{destroy: () => void}[]} */
  #plots = [];

  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.cards = el("dl", { class: "cards" });
    this.facts = el("dl", { class: "facts card" });
    this.depth = el("figure", { class: "card plot" });
    this.rate = el("figure", { class: "card plot" });
    this.problem = el("p", { class: "notice bad", role: "alert", hidden: true });
    parent.append(el("h1", {}, "Queue"), this.problem, this.cards, this.facts, this.depth, this.rate);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
  }

  /** @param {boolean} isShown */
  show(isShown) {
    this.#isShown = isShown;
    clearTimeout(this.#timer);
    if (isShown) this.#load();
  }

  /** Reads the queue again soon, if it is shown. */
  refresh() {
    if (!this.#isShown) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), COLLECT_MS);
  }

  async #load() {
    try {
      const [{ data }] = await Promise.all([call("GET", "/v1/queue?history=true"), loadPlotting()]);
      this.problem.hidden = true;
      if (this.#isShown) this.#render(data);
    } catch (error) {
      this.problem.textContent = `Cannot read the queue: ${messageOf(error)}`;
      this.problem.hidden = false;
    }
    if (this.#isShown) this.#timer = setTimeout(() => this.#load(), SAMPLE_MS);
  }

  /** @param {{states: StateRow[], history?: Sample[]}} queue */
  #render({ states, history = [] }) {
    const rows = new Map(states.map((row) => [row.state, row]));
    const inOrder = /** @type {State[]} */ (Object.keys(NAMES)).flatMap((state) => rows.get(state) ?? []);
    this.cards.replaceChildren(...inOrder.map(makeCard));
    const oldest = rows.get("queued")?.oldest;
    const next_release = rows.get("held")?.next_release;
    this.facts.replaceChildren(
      makeFact("Oldest due chat", oldest ? describeAge(oldest) : "none"),
      makeFact("Next release", next_release ? formatWhen(next_release, LOCAL_ZONE) : "no held chats"),
      makeFact("Rate", describeRate(history)),
    );
    for (const plot of this.#plots) plot.destroy();
    const at = history.map((sample) => Date.parse(sample.at) / 1000);
    const noSamples = `No samples yet. The worker takes one every ${SAMPLE_MS / 1000} s.`;
    const samples = history.length === 1 ? "1 sample" : `${history.length} samples`;
    const summary = history.length ? `${samples} of the last hour` : noSamples;
    this.#plots = [
      ...drawPlot(this.depth, "Waiting chats, last hour", summary, at, [
        [NAMES.held, history.map((sample) => sample.held), "--held"],
        [NAMES.queued, history.map((sample) => sample.queued), "--accent"],
        [NAMES.failed, history.map((sample) => sample.failed), "--bad"],
      ]),
      ...drawPlot(this.rate, SENT, summary, at, [[SENT, ratesPerMinute(history), "--accent"]]),
    ];
  }
}

/** @param {string} oldest */
const describeAge = (oldest) =>
  `${formatDuration(Date.now() - Date.parse(oldest))}, since ${formatTime(oldest, LOCAL_ZONE)}`;

/**
 * @param {string} name
 * @param {string} value
 */
const makeFact = (name, value) => el("div", {}, el("dt", { class: "small muted" }, name), el("dd", {}, value));

/** @param {StateRow} row */
function makeCard({ state, chats, oldest }) {
  const hasAge = chats > 0 && oldest && state !== "sent";
  return el(
    "div",
    { class: `card state ${state}` },
    el("dt", {}, el("span", { class: `pill ${state}` }, NAMES[state])),
    el("dd", { class: "figure numbers" }, NUMBERS.format(chats)),
    el("dd", { class: "small muted" }, hasAge ? `since ${formatWhen(oldest, LOCAL_ZONE)}` : MEANINGS[state]),
  );
}

/**
 * Chats sent per minute between each sample and the previous one; null for the first.
 * @param {Sample[]} history
 */
export function ratesPerMinute(history) {
  return history.map((sample, index) => (index ? rateBetween(history[index - 1], sample) : null));
}

/**
 * @param {Sample} first
 * @param {Sample} last
 */
const rateBetween = (first, last) => (last.sent - first.sent) / minutesBetween(first, last);

/**
 * @param {Sample} first
 * @param {Sample} last
 */
const minutesBetween = (first, last) => (Date.parse(last.at) - Date.parse(first.at)) / 60_000;

/**
 * The rate over the last five minutes, in words.
 * @param {Sample[]} history
 */
export function describeRate(history) {
  const last = history.at(-1);
  const first = last && history.find((sample) => minutesBetween(sample, last) <= RATE_MS / 60_000);
  if (!last || !first || first === last) return "not known yet";
  const minutes = Math.round(minutesBetween(first, last));
  return `${NUMBERS.format(rateBetween(first, last))} sent per minute, over ${minutes} min`;
}

/** @type {Promise<void> | null} */
let loading = null;

/** Loads uPlot when the queue is shown for the first time. */
function loadPlotting() {
  loading ??= new Promise((resolve, reject) => {
    document.head.append(
      el("link", { rel: "stylesheet", href: "/static/vendor/uplot.css" }),
      el("script", { src: "/static/vendor/uplot.js", onload: resolve, onerror: reject }),
    );
  });
  return loading;
}

const INCREMENTS = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000].flatMap((power) => [power, 2 * power, 5 * power]);

/** @typedef {(plot: unknown, value: number | null) => string} FormatValue as uPlot calls it */

/** @param {number} seconds */
const formatSeconds = (seconds) => formatTime(seconds * 1000, LOCAL_ZONE);
/** @type {FormatValue} */
const formatX = (_, seconds) => (seconds == null ? "–" : formatSeconds(seconds));
/** @type {FormatValue} */
const formatY = (_, value) => (value == null ? "–" : String(Math.round(value * 10) / 10));

/** @type {(plot: unknown, low: number, high: number) => [number, number]} */
const scaleFromZero = (_plot, _low, high) => [0, Math.max(5, high * 1.1)];

/**
 * Fills the figure with a plot of the lines. Returns the plot, or nothing if there are too few samples.
 * @param {HTMLElement} figure
 * @param {string} title
 * @param {string} summary
 * @param {number[]} at in seconds since 1970
 * @param {Line[]} lines
 * @returns {{destroy: () => void}[]}
 */
function drawPlot(figure, title, summary, at, lines) {
  const caption = el("figcaption", {}, el("h2", {}, title), el("p", { class: "small muted" }, summary));
  const canvas = el("div", { role: "img", "aria-label": `${title}. ${summary}` });
  figure.replaceChildren(caption, canvas);
  if (at.length < 2) return [];
  /** @param {string} name */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const axis = {
    stroke: colour("--ink-soft"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line") },
  };
  /** @type {(plot: unknown, ticks: number[]) => string[]} */
  const formatTicks = (_, ticks) => ticks.map(formatSeconds);
  const series = lines.map(([label, , name]) => ({
    label, stroke: colour(name), width: 2, points: { show: false }, value: formatY,
  }));
  const options = {
    width: Math.max(280, figure.clientWidth - 34),
    height: 220,
    series: [{ value: formatX }, ...series],
    axes: [{ ...axis, values: formatTicks }, { ...axis, size: 56, incrs: INCREMENTS }],
    scales: { y: { range: scaleFromZero } },
    cursor: { sync: { key: "queue" }, y: false },
  };
  const { uPlot } = /** @type {any} */ (window);
  return [new uPlot(options, [at, ...lines.map(([, values]) => values)], canvas)];
}
