/**
 * Instants as text for people, in a given time zone, usually the store's.
 *
 * @typedef {string | number | Date} Instant
 */

const LANGUAGE = "en-GB";
/** @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/**
 * @param {Instant} instant
 * @param {string} zone
 * @param {Intl.DateTimeFormatOptions} options
 */
function format(instant, zone, options) {
  const key = zone + JSON.stringify(options);
  let cached = formats.get(key);
  if (!cached) formats.set(key, (cached = new Intl.DateTimeFormat(LANGUAGE, { timeZone: zone, ...options })));
  return cached.format(new Date(instant));
}

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
export const LOCAL_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

/**
 * "09:00"
 * @param {Instant} instant
 * @param {string} zone
 */
export const formatTime = (instant, zone) =>
  format(instant, zone, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/**
 * The calendar day in the zone, as text to compare.
 * @param {Instant} instant
 * @param {string} zone
 */
export const calendarDay = (instant, zone) =>
  format(instant, zone, { year: "numeric", month: "2-digit", day: "2-digit" });

/**
 * How many days after today `instant` is in the zone: -1, 0 or 1; null for other days.
 * @param {Instant} instant
 * @param {string} zone
 */
function daysFromToday(instant, zone) {
  const day = calendarDay(instant, zone);
  return [-1, 0, 1].find((days) => calendarDay(Date.now() + days * DAY, zone) === day) ?? null;
}

/**
 * "Today", "Yesterday", "Monday 30 November"; with the year if it is not this year.
 * @param {Instant} instant
 * @param {string} zone
 */
export function formatDay(instant, zone) {
  const days = daysFromToday(instant, zone);
  if (days !== null) return ["Yesterday", "Today", "Tomorrow"][days + 1];
  const thisYear = format(instant, zone, { year: "numeric" }) === format(Date.now(), zone, { year: "numeric" });
  const year = thisYear ? undefined : "numeric";
  return format(instant, zone, { weekday: "long", day: "numeric", month: "long", year });
}

/**
 * "09:00", "tomorrow at 09:00", "Mon, 30 Nov at 09:00"; with the zone's name where local clocks differ.
 * @param {Instant} instant
 * @param {string} zone
 */
export function formatWhen(instant, zone) {
  const days = daysFromToday(instant, zone);
  const time = formatTime(instant, zone) + (isLocalTime(instant, zone) ? "" : ` (${zoneName(zone)})`);
  if (days === 0) return time;
  if (days === 1) return `tomorrow at ${time}`;
  if (days === -1) return `yesterday at ${time}`;
  return `${format(instant, zone, { weekday: "short", day: "numeric", month: "short" })} at ${time}`;
}

/**
 * formatWhen() to follow a verb: "at 09:00", "tomorrow at 09:00", "on Mon, 30 Nov at 09:00".
 * @param {Instant} instant
 * @param {string} zone
 */
export function formatAtWhen(instant, zone) {
  const text = formatWhen(instant, zone);
  if (/^\d/.test(text)) return `at ${text}`;
  return /^[A-Z]/.test(text) ? `on ${text}` : text;
}

/**
 * Whether clocks in the zone show the same day and time as the reader's.
 * @param {Instant} instant
 * @param {string} zone
 */
export function isLocalTime(instant, zone) {
  /** @type {Intl.DateTimeFormatOptions} */
  const options = { day: "2-digit", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return format(instant, zone, options) === format(instant, LOCAL_ZONE, options);
}

/**
 * "Oslo time", "UTC"
 * @param {string} zone
 */
export const zoneName = (zone) => (zone.includes("/") ? `${cityOf(zone)} time` : zone);

/** @param {string} zone */
const cityOf = (zone) => zone.slice(zone.lastIndexOf("/") + 1).replaceAll("_", " ");

/**
 * Date, time and zone in full, for a tooltip; also in local time if that differs.
 * @param {Instant} instant
 * @param {string} zone
 */
export function formatFull(instant, zone) {
  /** @type {Intl.DateTimeFormatOptions} */
  const options = { dateStyle: "full", timeStyle: "medium" };
  const text = `${format(instant, zone, options)} ${zoneName(zone)}`;
  return isLocalTime(instant, zone) ? text : `${text}; ${format(instant, LOCAL_ZONE, options)} your time`;
}

/**
 * For a list: "now", "5 min", "09:41", "Yesterday", "Mon", "30 Nov"
 * @param {Instant} instant
 * @param {string} zone
 */
export function formatBrief(instant, zone) {
  const age = Date.now() - new Date(instant).getTime();
  if (age < MINUTE) return "now";
  if (age < 60 * MINUTE) return `${Math.floor(age / MINUTE)} min`;
  const days = daysFromToday(instant, zone);
  if (days === 0) return formatTime(instant, zone);
  if (days === -1) return "Yesterday";
  if (age < 6 * DAY) return format(instant, zone, { weekday: "short" });
  return format(instant, zone, { day: "numeric", month: "short" });
}

/**
 * "8 s", "5 min", "3 h 20 min", "2 days"
 * @param {number} milliseconds
 */
export function formatDuration(milliseconds) {
  const minutes = Math.floor(milliseconds / MINUTE);
  if (minutes < 1) return `${Math.max(0, Math.round(milliseconds / 1000))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 60 / 24)} days`;
}
