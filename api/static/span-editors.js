/** Editors of opening spans: a day's times as fields, and a week's days as half hours to click and drag across. */

/** @import { Span } from "./spans.js" */

/**
 * @typedef {"mon" | "tue" | "wed" | "thu" | "fri" | "sat" | "sun"} Weekday
 */

import { el } from "./dom.js";
import { DAY, isTime, normalizeTime, paint, toMinutes } from "./spans.js";

/** @type {Record<Weekday, string>} */
export const WEEKDAYS = {
  mon: "Monday",
  tue: "Tuesday",
  wed: "Wednesday",
  thu: "Thursday",
  fri: "Friday",
  sat: "Saturday",
  sun: "Sunday",
};
const WEEKDAY_NAMES = /** @type {Weekday[]} */ (Object.keys(WEEKDAYS));
const CELL = 30; // minutes
const CELLS = DAY / CELL;

/**
 * The times of a day as fields.
 * @param {Span[]} spans
 * @param {string} path of the spans in the API's error messages: "weekly.mon"
 * @param {string} name what people call the day
 * @param {(spans: Span[]) => void} onChange
 */
export function spanFields(spans, path, name, onChange) {
  /**
   * @param {number} index
   * @param {0 | 1} end
   */
  const field = (index, end) =>
    el("input", {
      value: spans[index][end], inputmode: "numeric", maxlength: 5, autocomplete: "off",
      "aria-label": `${name} ${end ? "to" : "from"}`, "data-path": `${path}[${index}]`,
      onchange: (/** @type {{target: HTMLInputElement}} */ { target }) => {
        target.value = normalizeTime(target.value);
        target.setAttribute("aria-invalid", String(!isTime(target.value)));
        onChange(spans.with(index, /** @type {Span} */ (spans[index].with(end, target.value))));
      },
    });
  /** @param {number} index */
  const removeButton = (index) =>
    el(
      "button",
      {
        class: "quiet", type: "button", "aria-label": `${name}: remove ${spans[index].join(" to ")}`,
        onclick: () => onChange(spans.toSpliced(index, 1)),
      },
      "×",
    );
  /** @param {number} index */
  const span = (index) => el("span", { class: "span" }, field(index, 0), "–", field(index, 1), removeButton(index));
  const addButton = el(
    "button",
    {
      class: "quiet small", type: "button", "aria-label": `${name}: add times`,
      onclick: () => onChange(addSpan(spans)),
    },
    spans.length ? "+" : "Open",
  );
  return el(
    "div",
    { class: "spans" },
    spans.length === 0 && el("span", { class: "muted" }, "Closed"),
    ...spans.map((_, index) => span(index)),
    addButton,
  );
}

/**
 * The spans with one more: 09:00 to 17:00 on a closed day, otherwise from an hour after the last span to midnight.
 * @param {Span[]} spans
 */
export function addSpan(spans) {
  if (spans.length === 0) return /** @type {Span[]} */ ([["09:00", "17:00"]]);
  const end = Math.max(...spans.map((span) => toMinutes(span)[1]));
  if (end + 60 >= DAY) return spans;
  return paint(spans, end + 60 > DAY - 60 ? end : end + 60, DAY, true);
}

/**
 * The rows of the week.
 * @param {Record<Weekday, Span[]>} weekly
 * @param {string} today a Weekday, or "" to mark none
 * @param {(weekday: Weekday, spans: Span[]) => void} onChange
 */
export function weekRows(weekly, today, onChange) {
  const hours = [0, 3, 6, 9, 12, 15, 18, 21].map((hour) => el("span", {}, String(hour).padStart(2, "0")));
  const scale = el(
    "div",
    { class: "weekday scale", "aria-hidden": "true" },
    el("span"),
    el("div", { class: "hours-of-day" }, ...hours),
  );
  const rows = WEEKDAY_NAMES.map((day, index) => {
    const previous = WEEKDAY_NAMES.at(index - 1) ?? "sun";
    const isToday = day === today;
    const hint = isToday && el("span", { class: "visually-hidden" }, ", today");
    /** @param {Span[]} spans */
    const put = (spans) => onChange(day, spans);
    return el(
      "div",
      { class: "weekday" },
      el("h3", { class: isToday && "today" }, WEEKDAYS[day], hint),
      makeCells(weekly[day], weekly[previous], put),
      spanFields(weekly[day], `weekly.${day}`, WEEKDAYS[day], put),
      el("p", { class: "error small", "data-problem": `weekly.${day}`, hidden: true }),
    );
  });
  return [scale, ...rows];
}

/**
 * How a half hour is shown: "open", "part" open, "over" from the previous day, or "" for closed.
 * @param {number} from its first minute
 * @param {Span[]} spans
 * @param {Span[]} previous the spans of the previous day
 */
export function cellState(from, spans, previous) {
  const open = spans
    .map(toMinutes)
    .reduce((sum, [begin, end]) => sum + Math.max(0, Math.min(end, from + CELL) - Math.max(begin, from)), 0);
  if (open) return open >= CELL ? "open" : "part";
  return previous.some((span) => toMinutes(span)[1] - DAY > from) ? "over" : "";
}

/** @param {Span} span */
const isComplete = (span) => span.every(isTime);

/**
 * The day as half hours, for the pointer. For the keyboard there are the fields beside it.
 * @param {Span[]} spans
 * @param {Span[]} previous
 * @param {(spans: Span[]) => void} onChange
 */
function makeCells(spans, previous, onChange) {
  const complete = spans.filter(isComplete);
  const previousComplete = previous.filter(isComplete);
  /** @param {number} index */
  const stateOf = (index) => cellState(index * CELL, complete, previousComplete);
  const cells = Array.from({ length: CELLS }, (_, index) => el("i", { class: stateOf(index) }));
  const bar = el("div", { class: "cells", "aria-hidden": "true" }, ...cells);
  /** @type {{at: number, open: boolean} | null} where the drag began, and whether it opens or closes */
  let drag = null;
  /** @param {PointerEvent} event */
  const cellAt = (event) => {
    const box = bar.getBoundingClientRect();
    return Math.min(CELLS - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * CELLS)));
  };
  /**
   * @param {number} at
   * @param {PointerEvent} event
   */
  const rangeFrom = (at, event) => [Math.min(at, cellAt(event)), Math.max(at, cellAt(event)) + 1];
  /** @param {PointerEvent} event */
  const showDrag = (event) => {
    if (!drag) return;
    const { at, open } = drag;
    const [from, to] = rangeFrom(at, event);
    for (const [index, cell] of cells.entries()) {
      const isDragged = index >= from && index < to;
      cell.className = isDragged ? (open ? "open" : "") : stateOf(index);
    }
  };
  bar.addEventListener("pointerdown", (event) => {
    const at = cellAt(event);
    drag = { at, open: cells[at].className !== "open" };
    bar.setPointerCapture(event.pointerId);
    showDrag(event);
  });
  bar.addEventListener("pointermove", showDrag);
  bar.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { at, open } = drag;
    const [from, to] = rangeFrom(at, event);
    drag = null;
    onChange(paint(complete, from * CELL, to * CELL, open));
  });
  bar.addEventListener("pointercancel", () => {
    drag = null;
  });
  return bar;
}
