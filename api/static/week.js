/** The editors of spans: a day's times to write, and a week's days to click in. */

import { el } from "./dom.js";
import { counted, DAY, isTime, painted, tidied } from "./spans.js";

export const WEEKDAYS = { mon: "Monday", tue: "Tuesday", wed: "Wednesday", thu: "Thursday", fri: "Friday", sat: "Saturday", sun: "Sunday" };
const HALF_HOURS = 48;

/** The times of a day, to be written. `place` is what the API calls its spans, `name` what people call the day. */
export function spanFields(spans, place, name, changed) {
  const field = (number, end) =>
    el("input", {
      value: spans[number][end], inputmode: "numeric", maxlength: 5, autocomplete: "off",
      "aria-label": `${name} ${end ? "to" : "from"}`, "data-place": `${place}[${number}]`,
      onchange: (event) => {
        event.target.value = tidied(event.target.value);
        event.target.setAttribute("aria-invalid", String(!isTime(event.target.value)));
        changed(spans.map((span, other) => (other === number ? span.with(end, event.target.value) : span)));
      },
    });
  const remove = (number) =>
    el("button", { class: "quiet", type: "button", "aria-label": `${name}: take ${spans[number].join(" to ")} away`,
      onclick: () => changed(spans.toSpliced(number, 1)) }, "×");
  const add = el("button", { class: "quiet small", type: "button", "aria-label": `${name}: add times`,
    onclick: () => changed(withMore(spans)) }, spans.length ? "+" : "Open");
  return el("div", { class: "spans" },
    spans.length === 0 && el("span", { class: "muted" }, "Closed"),
    ...spans.map((_, number) => el("span", { class: "span" }, field(number, 0), "–", field(number, 1), remove(number))),
    add);
}

/** A usual day, or an hour more after the last span. */
function withMore(spans) {
  if (spans.length === 0) return [["09:00", "17:00"]];
  const end = Math.max(...spans.map((span) => counted(span)[1]));
  return end + 60 >= DAY ? spans : painted(spans, end + 60 > DAY - 60 ? end : end + 60, DAY, true);
}

/** The rows of the week; `today` is a weekday's name, changed(weekday, spans) is called for every change. */
export function weekRows(weekly, today, changed) {
  const names = Object.keys(WEEKDAYS);
  const hours = [0, 3, 6, 9, 12, 15, 18, 21].map((hour) => el("span", {}, String(hour).padStart(2, "0")));
  const scale = el("div", { class: "weekday scale", "aria-hidden": "true" }, el("span"), el("div", { class: "hours-of-day" }, ...hours));
  return [scale, ...names.map((day, number) => {
    const before = weekly[names.at(number - 1)];
    return el("div", { class: "weekday" },
      el("h3", { class: day === today && "today" }, WEEKDAYS[day], day === today && el("span", { class: "visually-hidden" }, ", today")),
      cells(weekly[day], before, (spans) => changed(day, spans)),
      spanFields(weekly[day], `weekly.${day}`, WEEKDAYS[day], (spans) => changed(day, spans)),
      el("p", { class: "error small", "data-problem": `weekly.${day}`, hidden: true }));
  })];
}

/** The day as half hours to click and drag over, for the pointer; the keyboard has the times beside it. */
function cells(spans, before, changed) {
  const own = spans.filter((span) => span.every(isTime)).map(counted);
  const over = before.filter((span) => span.every(isTime)).map(counted).map(([, to]) => to - DAY);
  const kind = (from) => {
    const open = own.reduce((sum, [a, b]) => sum + Math.max(0, Math.min(b, from + 30) - Math.max(a, from)), 0);
    if (open) return open >= 30 ? "open" : "part";
    return over.some((to) => to > from) ? "over" : "";
  };
  const bar = el("div", { class: "cells", "aria-hidden": "true" },
    ...Array.from({ length: HALF_HOURS }, (_, number) => el("i", { class: kind(number * 30) })));
  let begun = null; // where the drag began, and whether it opens
  const under = (event) => {
    const box = bar.getBoundingClientRect();
    return Math.min(HALF_HOURS - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * HALF_HOURS)));
  };
  const range = (event) => [Math.min(begun.at, under(event)), Math.max(begun.at, under(event)) + 1];
  bar.addEventListener("pointerdown", (event) => {
    begun = { at: under(event), open: bar.children[under(event)].className !== "open" };
    bar.setPointerCapture(event.pointerId);
    show(event);
  });
  bar.addEventListener("pointermove", (event) => begun && show(event));
  bar.addEventListener("pointerup", (event) => {
    if (!begun) return;
    const [from, to] = range(event);
    const { open } = begun;
    begun = null;
    changed(painted(spans.filter((span) => span.every(isTime)), from * 30, to * 30, open));
  });
  bar.addEventListener("pointercancel", () => { begun = null; });
  function show(event) {
    const [from, to] = range(event);
    [...bar.children].forEach((cell, number) => {
      cell.className = number >= from && number < to ? (begun.open ? "open" : "") : kind(number * 30);
    });
  }
  return bar;
}
