/** Instants as people read them, in a zone of choice (the store's). */

const LANGUAGE = "en-GB";
const formats = new Map();

function format(instant, zone, options) {
  const key = zone + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(LANGUAGE, { timeZone: zone, ...options }));
  return formats.get(key).format(new Date(instant));
}

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
export const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** "09:00" */
export const clock = (instant, zone) =>
  format(instant, zone, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/** The calendar day there, as something to compare. */
export const day = (instant, zone) => format(instant, zone, { year: "numeric", month: "2-digit", day: "2-digit" });

/** How many days `instant` is after today, there: -1, 0 and 1, or null for others. */
function daysAway(instant, zone) {
  const found = [-1, 0, 1].find((days) => day(Date.now() + days * DAY, zone) === day(instant, zone));
  return found ?? null;
}

/** "Today", "Yesterday", "Monday 30 November", with the year where it is another */
export function dayName(instant, zone) {
  const near = { "-1": "Yesterday", 0: "Today", 1: "Tomorrow" }[daysAway(instant, zone)];
  if (near) return near;
  const year = { year: "numeric" };
  const other = format(instant, zone, year) !== format(Date.now(), zone, year);
  return format(instant, zone, { weekday: "long", day: "numeric", month: "long", ...(other && year) });
}

/** "09:00", "tomorrow at 09:00", "Mon, 30 Nov at 09:00"; with the zone's name where it is not the reader's own */
export function when(instant, zone) {
  const away = daysAway(instant, zone);
  const time = clock(instant, zone) + (sameHere(instant, zone) ? "" : ` (${zoneName(zone)})`);
  if (away === 0) return time;
  if (away === 1) return `tomorrow at ${time}`;
  if (away === -1) return `yesterday at ${time}`;
  return `${format(instant, zone, { weekday: "short", day: "numeric", month: "short" })} at ${time}`;
}

/** Whether a clock there shows what the reader's shows. */
export function sameHere(instant, zone) {
  const options = { day: "2-digit", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return format(instant, zone, options) === format(instant, HERE, options);
}

/** "Oslo time", "UTC" */
export const zoneName = (zone) =>
  zone.includes("/") ? `${zone.split("/").at(-1).replaceAll("_", " ")} time` : zone;

/** The whole of it, for a tooltip. */
export function full(instant, zone) {
  const options = { dateStyle: "full", timeStyle: "medium" };
  const there = `${format(instant, zone, options)} ${zoneName(zone)}`;
  return sameHere(instant, zone) ? there : `${there}; ${format(instant, HERE, options)} here`;
}

/** For a list: "now", "5 min", "09:41", "Yesterday", "Mon", "30 Nov" */
export function brief(instant, zone) {
  const since = Date.now() - new Date(instant);
  if (since < MINUTE) return "now";
  if (since < 60 * MINUTE) return `${Math.floor(since / MINUTE)} min`;
  if (daysAway(instant, zone) === 0) return clock(instant, zone);
  if (daysAway(instant, zone) === -1) return "Yesterday";
  if (since < 6 * DAY) return format(instant, zone, { weekday: "short" });
  return format(instant, zone, { day: "numeric", month: "short" });
}

/** A length of time: "8 s", "5 min", "3 h 20 min", "2 days" */
export function length(milliseconds) {
  const minutes = Math.floor(milliseconds / MINUTE);
  if (minutes < 1) return `${Math.max(0, Math.round(milliseconds / 1000))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 60 / 24)} days`;
}
