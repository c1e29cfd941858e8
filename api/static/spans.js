/**
 * The spans of a day, in two forms: as text, ["09:00", "14:00"], and in minutes since the day's midnight, [540, 840].
 *
 * @typedef {[string, string]} Span
 * @typedef {[number, number]} MinuteSpan
 */

export const DAY = 24 * 60;

/** @param {string} text */
const parseTime = (text) => Number(text.slice(0, 2)) * 60 + Number(text.slice(3));
/** @param {number} minutes */
const formatMinutes = (minutes) =>
  `${String(Math.floor(minutes / 60)).padStart(2, "0")}:${String(minutes % 60).padStart(2, "0")}`;

/**
 * In minutes; the end is above 1440 if the span runs past midnight.
 * @param {Span} span
 * @returns {MinuteSpan}
 */
export function toMinutes([opens, closes]) {
  const [from, to] = [parseTime(opens), parseTime(closes)];
  return [from, to > from ? to : to + DAY];
}

/**
 * @param {MinuteSpan} span
 * @returns {Span}
 */
const toText = ([from, to]) => [formatMinutes(from), formatMinutes(to > DAY ? to - DAY : to)];

/**
 * The day's spans with the minutes `from` to `to` opened, or closed. Spans that touch are merged.
 * @param {Span[]} spans
 * @param {number} from
 * @param {number} to
 * @param {boolean} open
 * @returns {Span[]}
 */
export function paint(spans, from, to, open) {
  const old = spans.map(toMinutes);
  const parts = open ? [...old, /** @type {MinuteSpan} */ ([from, to])] : old.flatMap((span) => cutOut(span, from, to));
  /** @type {MinuteSpan[]} */
  const merged = [];
  for (const [begin, end] of parts.sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last && begin <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([begin, end]);
  }
  return merged.map(([begin, end]) => toText([begin, Math.min(end, begin + DAY)]));
}

/**
 * What is left of a span without the minutes `from` to `to`; a remainder on the next day alone is dropped.
 * @param {MinuteSpan} span
 * @param {number} from
 * @param {number} to
 */
function cutOut([begin, end], from, to) {
  /** @type {MinuteSpan[]} */
  const remainders = [[begin, Math.min(end, from)], [Math.max(begin, to), end]];
  return remainders.filter(([a, b]) => a < b && a < DAY);
}

/**
 * A time as people type it, "9", "930" or "9.30", as "09:30"; other text is only trimmed.
 * @param {string} typed
 */
export function normalizeTime(typed) {
  const found = typed.trim().match(/^(\d{1,2})(?:[:.h ]?(\d{2}))?$/);
  return found ? `${found[1].padStart(2, "0")}:${found[2] ?? "00"}` : typed.trim();
}

/**
 * Whether the API accepts it as the begin or end of a span.
 * @param {string} text
 */
export const isTime = (text) => /^(([01]\d|2[0-3]):[0-5]\d|24:00)$/.test(text);
