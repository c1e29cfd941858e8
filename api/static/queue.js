/** The queue as an operator or an engineer watches it: how much is in each state, now and over the last hour. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { clock, HERE, length, when } from "./time.js";

const SAMPLE_MS = 30_000; // as often as the worker notes the depth
const GATHER_MS = 1000;
const RATE_OVER_MS = 5 * 60_000;
const NAMES = { queued: "Queued", held: "Held", failed: "Failed", sent: "Sent", cancelled: "Cancelled" };
const MEANING = {
  queued: "may go now",
  held: "until their store opens",
  failed: "given up, for a person to look at",
  sent: "in the log",
  cancelled: "taken back in time",
};

export class QueueView {
  #place;
  #shown = false;
  #timer = null;
  #plots = [];

  constructor(place) {
    this.#place = place;
    this.cards = el("dl", { class: "cards" });
    this.facts = el("dl", { class: "facts card" });
    this.depth = el("figure", { class: "card plot" });
    this.rate = el("figure", { class: "card plot" });
    this.problem = el("p", { class: "notice bad", role: "alert", hidden: true });
    place.append(el("h1", {}, "Queue"), this.problem, this.cards, this.facts, this.depth, this.rate);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.changed());
  }

  show(shown) {
    this.#shown = shown;
    clearTimeout(this.#timer);
    this.#timer = null;
    if (shown) this.#load();
  }

  /** Something was sent or held: the figures are read anew, soon, if they are looked at. */
  changed() {
    if (!this.#shown) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), GATHER_MS);
  }

  async #load() {
    try {
      const [{ data }] = await Promise.all([call("GET", "/v1/queue?history=true"), plotting()]);
      this.problem.hidden = true;
      if (this.#shown) this.#render(data);
    } catch (error) {
      this.problem.textContent = `The queue cannot be read just now: ${error.message}`;
      this.problem.hidden = false;
    }
    if (this.#shown) this.#timer = setTimeout(() => this.#load(), SAMPLE_MS);
  }

  #render({ states, history = [] }) {
    const by = Object.fromEntries(states.map((row) => [row.state, row]));
    this.cards.replaceChildren(...Object.keys(NAMES).map((state) => card(by[state])));
    const fact = (name, value) => el("div", {}, el("dt", { class: "small muted" }, name), el("dd", {}, value));
    const { oldest } = by.queued;
    const { next_release } = by.held;
    this.facts.replaceChildren(
      fact("Oldest waiting", oldest ? `${length(Date.now() - new Date(oldest))}, since ${clock(oldest, HERE)}` : "none waits"),
      fact("Next release", next_release ? when(next_release, HERE) : "none is held"),
      fact("Rate", rateNow(history)),
    );
    for (const plot of this.#plots) plot.destroy();
    const at = history.map((sample) => new Date(sample.at) / 1000);
    const depth = ["held", "queued", "failed"].map((state) => [NAMES[state], history.map((sample) => sample[state]), `--${{ held: "held", queued: "accent", failed: "bad" }[state]}`]);
    const summary = history.length ? `${history.length} samples of the last hour` : "No samples yet: the worker takes one every 30 s";
    this.#plots = [
      plot(this.depth, "Waiting, the last hour", summary, at, depth),
      plot(this.rate, "Sent a minute", summary, at, [["Sent a minute", rates(history), "--accent"]]),
    ].filter(Boolean);
  }
}

function card({ state, chats, oldest }) {
  const since = oldest && state !== "sent" ? `since ${when(oldest, HERE)}` : MEANING[state];
  return el(
    "div",
    { class: `card state ${state}` },
    el("dt", {}, el("span", { class: `pill ${state}` }, NAMES[state])),
    el("dd", { class: "figure numbers" }, chats.toLocaleString("en-GB")),
    el("dd", { class: "small muted" }, chats ? since : MEANING[state]),
  );
}

/** Sent a minute between each sample and the one before it; null for the first. */
function rates(history) {
  return history.map((sample, place) => {
    const before = history[place - 1];
    return before ? ((sample.sent - before.sent) * 60_000) / (new Date(sample.at) - new Date(before.at)) : null;
  });
}

function rateNow(history) {
  const last = history.at(-1);
  const first = last && history.find((sample) => new Date(last.at) - new Date(sample.at) <= RATE_OVER_MS);
  if (!last || first === last) return "not known yet";
  const minutes = (new Date(last.at) - new Date(first.at)) / 60_000;
  const rate = (last.sent - first.sent) / minutes;
  return `${rate.toLocaleString("en-GB", { maximumFractionDigits: 1 })} sent a minute, over ${Math.round(minutes)} min`;
}

/** uPlot, loaded once somebody looks at the queue. */
let loading = null;
function plotting() {
  loading ??= new Promise((done, failed) => {
    document.head.append(
      el("link", { rel: "stylesheet", href: "/static/vendor/uplot.css" }),
      el("script", { src: "/static/vendor/uplot.js", onload: done, onerror: failed }),
    );
  });
  return loading;
}

/** Fills the figure with a plot of [[name, values, colour]] over `at` in seconds. */
function plot(figure, title, summary, at, lines) {
  const caption = el("figcaption", {}, el("h2", {}, title), el("p", { class: "small muted" }, summary));
  const place = el("div", { role: "img", "aria-label": `${title}. ${summary}.` });
  figure.replaceChildren(caption, place);
  if (at.length < 2) return null;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const axis = { stroke: colour("--ink-soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const series = lines.map(([label, , name]) => ({
    label, stroke: colour(name), width: 2, points: { show: false }, value: (_, value) => (value == null ? "–" : String(Math.round(value * 10) / 10)),
  }));
  const options = {
    width: Math.max(280, figure.clientWidth - 34), height: 220, series: [{ value: (_, value) => (value == null ? "–" : clock(value * 1000, HERE)) }, ...series],
    axes: [{ ...axis, values: (_, ticks) => ticks.map((tick) => clock(tick * 1000, HERE)) }, { ...axis, size: 56, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000] }],
    scales: { y: { range: (_, low, high) => [0, Math.max(5, high * 1.1)] } },
    cursor: { sync: { key: "queue" }, y: false },
  };
  return new window.uPlot(options, [at, ...lines.map(([, values]) => values)], place);
}
