/**
 * Opening hours as the hours page edits them, without the page.
 *
 * @import { Weekday } from "./span-editors.js"
 * @import { Span } from "./spans.js"
 *
 * @typedef {object} Exception a day with its own times; it has either `date` or `yearly`
 * @property {string} [date] "2026-12-24"
 * @property {string} [yearly] "12-25"
 * @property {string} [name]
 * @property {Span[]} spans
 *
 * @typedef {object} Hours
 * @property {string} timezone
 * @property {Record<Weekday, Span[]>} weekly
 * @property {Exception[]} exceptions
 * @property {number | null} pace_per_minute
 * @property {string | null} away_notice
 * @property {string[]} urgent
 *
 * @typedef {{first: string | null, last: string | null}} Range
 *
 * @typedef {object} Effect how many held chats a change moves, from when to when
 * @property {string} timezone
 * @property {{chats: number, from: Range, to: Range}} moved
 */

import { formatAtWhen, formatWhen } from "./time.js";

/** What the API leaves out of the hours when it is not set. */
const DEFAULTS = { exceptions: [], pace_per_minute: null, away_notice: null, urgent: [] };

/**
 * The hours in an answer of the API, which has the effect of the change besides.
 * @param {any} answer
 * @returns {Hours}
 */
export function readHours({ dry_run, moved, ...hours }) {
  return { ...DEFAULTS, ...hours };
}

/**
 * The release of held chats before and after a change, as a sentence.
 * @param {Effect} effect
 * @param {"would" | "will"} verb
 */
export function describeEffect({ moved, timezone }, verb) {
  if (moved.chats === 0) return "No held chat changes its release time.";
  const chats = moved.chats === 1 ? "1 held chat" : `${moved.chats} held chats`;
  const after = moved.to.first
    ? `${chats} ${verb} be released ${formatRange(moved.to, timezone)}`
    : `${chats} ${verb} not be released, because the store has no opening scheduled`;
  return `${after} (previously: ${moved.from.first ? formatRange(moved.from, timezone) : "no opening scheduled"}).`;
}

/**
 * "at 09:00", "tomorrow at 09:00 to tomorrow at 10:00"
 * @param {Range} range
 * @param {string} timezone
 */
function formatRange({ first, last }, timezone) {
  const from = formatAtWhen(first ?? "", timezone);
  return last && last !== first ? `${from} to ${formatWhen(last, timezone)}` : from;
}

/**
 * The exception with another recurrence: a single date becomes yearly, a yearly one is set to the given year.
 * @param {Exception} exception
 * @param {number} year
 * @returns {Exception}
 */
export function toggleYearly({ date, yearly, ...others }, year) {
  return yearly === undefined ? { yearly: date?.slice(5), ...others } : { date: `${year}-${yearly}`, ...others };
}

/**
 * The exceptions of the given year that are not in the list yet.
 * @param {Exception[]} exceptions
 * @param {Exception[]} found
 * @param {number} year
 */
export function findNewDays(exceptions, found, year) {
  const known = new Set(exceptions.map((day) => day.date));
  return found.filter((day) => day.date?.startsWith(`${year}-`) && !known.has(day.date));
}

/**
 * Whether an error of the API is about the field with this path, or about a part of it.
 * @param {string} errorPath "weekly.mon[0][1]"
 * @param {string} fieldPath "weekly.mon[0]"
 */
export const isErrorOf = (errorPath, fieldPath) => errorPath === fieldPath || errorPath.startsWith(`${fieldPath}[`);

/**
 * The reason of an API error, in words for a shop owner where the API's are technical.
 * @param {string} reason
 */
export function explainReason(reason) {
  if (reason.startsWith("overlaps")) return "These times overlap with others.";
  if (reason.startsWith("String should match pattern")) return "Expected a time such as 09:00.";
  return reason;
}
