/** Spans of a day: written as ["09:00", "14:00"], counted as minutes [540, 840] from the midnight before. */

export const DAY = 24 * 60;

const minutes = (text) => Number(text.slice(0, 2)) * 60 + Number(text.slice(3));
const text = (count) => `${String(Math.floor(count / 60)).padStart(2, "0")}:${String(count % 60).padStart(2, "0")}`;

/** [from, to]; `to` is above 1440 where the span runs past midnight. */
export function counted([opens, closes]) {
  const [from, to] = [minutes(opens), minutes(closes)];
  return [from, to > from ? to : to + DAY];
}

const written = ([from, to]) => [text(from), text(to > DAY ? to - DAY : to)];

/** The day's spans with the minutes from `from` to `to` open, or closed; what then touches is one. */
export function painted(spans, from, to, open) {
  let counts = spans.map(counted);
  if (open) counts.push([from, to]);
  else counts = counts.flatMap(([a, b]) => [[a, Math.min(b, from)], [Math.max(a, to), b]].filter(([c, d]) => c < d && c < DAY));
  const merged = [];
  for (const [a, b] of counts.sort((x, y) => x[0] - y[0])) {
    const last = merged.at(-1);
    if (last && a <= last[1]) last[1] = Math.max(last[1], b);
    else merged.push([a, b]);
  }
  return merged.map(([a, b]) => written([a, Math.min(b, a + DAY)]));
}

/** A time as people type it, "9", "930", "9.30", as "09:30"; what is none stays as it is. */
export function tidied(typed) {
  const found = typed.trim().match(/^(\d{1,2})(?:[:.h ]?(\d{2}))?$/);
  return found ? `${found[1].padStart(2, "0")}:${found[2] ?? "00"}` : typed.trim();
}

/** Whether it is a time that a span may have. */
export const isTime = (typed) => /^(([01]\d|2[0-3]):[0-5]\d|24:00)$/.test(typed);
