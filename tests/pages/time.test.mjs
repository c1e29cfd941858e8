import "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import {
  formatAtWhen, formatBrief, formatDay, formatDuration, formatFull, formatTime, formatWhen, isLocalTime, zoneName,
} from "../../api/static/time.js";
import { restore, stopClock } from "./support.mjs";

beforeEach(() => stopClock("2026-12-01T12:00:00Z")); // a Tuesday; the reader is in UTC
afterEach(restore);

const withoutCommas = (text) => text.replaceAll(",", ""); // versions of ICU differ in them

test("a time is shown in the given zone", () => {
  assert.equal(formatTime("2026-12-01T08:05:00Z", "UTC"), "08:05");
  assert.equal(formatTime("2026-12-01T23:30:00Z", "Europe/Oslo"), "00:30");
});

test("a day is named by its distance from today in the zone", () => {
  assert.equal(formatDay("2026-12-01T00:00:00Z", "UTC"), "Today");
  assert.equal(formatDay("2026-11-30T23:59:00Z", "UTC"), "Yesterday");
  assert.equal(formatDay("2026-11-30T23:30:00Z", "Europe/Oslo"), "Today");
  assert.equal(formatDay("2026-12-02T00:00:00Z", "UTC"), "Tomorrow");
  assert.equal(formatDay("2026-11-23T12:00:00Z", "UTC"), "Monday 23 November");
  assert.match(formatDay("2025-11-24T12:00:00Z", "UTC"), /^Monday,? 24 November 2025$/);
});

describe("when something happens", () => {
  const cases = [
    ["2026-12-01T17:00:00Z", "UTC", "17:00", "at 17:00"],
    ["2026-12-02T09:00:00Z", "UTC", "tomorrow at 09:00", "tomorrow at 09:00"],
    ["2026-11-30T09:00:00Z", "UTC", "yesterday at 09:00", "yesterday at 09:00"],
    ["2026-12-07T09:00:00Z", "UTC", "Mon 7 Dec at 09:00", "on Mon 7 Dec at 09:00"],
    ["2026-12-01T17:00:00Z", "Europe/Oslo", "18:00 (Oslo time)", "at 18:00 (Oslo time)"],
    ["2026-12-01T17:00:00Z", "Asia/Tokyo", "tomorrow at 02:00 (Tokyo time)", "tomorrow at 02:00 (Tokyo time)"],
  ];
  for (const [instant, zone, alone, afterVerb] of cases) {
    test(`${alone}`, () => {
      assert.equal(withoutCommas(formatWhen(instant, zone)), alone);
      assert.equal(withoutCommas(formatAtWhen(instant, zone)), afterVerb);
    });
  }
});

test("a zone is named by its city", () => {
  assert.equal(zoneName("America/New_York"), "New York time");
  assert.equal(zoneName("America/Argentina/Buenos_Aires"), "Buenos Aires time");
  assert.equal(zoneName("UTC"), "UTC");
});

test("a zone with the reader's time needs no name", () => {
  assert.ok(isLocalTime("2026-12-01T12:00:00Z", "Europe/London"));
  assert.ok(!isLocalTime("2026-07-01T12:00:00Z", "Europe/London"));
  assert.ok(!isLocalTime("2026-12-01T12:00:00Z", "Pacific/Kiritimati"));
});

test("a tooltip adds the reader's own time only if it differs", () => {
  assert.match(formatFull("2026-12-01T12:00:00Z", "UTC"), /^Tuesday,? 1 December 2026 at 12:00:00 UTC$/);
  const tokyo = formatFull("2026-12-01T12:00:00Z", "Asia/Tokyo");
  assert.match(tokyo, /21:00:00 Tokyo time; Tuesday,? 1 December 2026 at 12:00:00 your time$/);
});

test("in a list the text is as short as the age allows", () => {
  const cases = {
    "2026-12-01T11:59:30Z": "now", "2026-12-01T11:55:00Z": "5 min", "2026-12-01T11:00:00Z": "11:00",
    "2026-11-30T11:00:00Z": "Yesterday", "2026-11-28T11:00:00Z": "Sat", "2026-11-20T11:00:00Z": "20 Nov",
    "2026-12-01T12:00:10Z": "now", // a clock that is ahead
  };
  for (const [instant, text] of Object.entries(cases)) assert.equal(formatBrief(instant, "UTC"), text);
});

test("a duration has its largest useful unit", () => {
  const cases = [[-5, "0 s"], [8, "8 s"], [59.9, "60 s"], [300, "5 min"], [12_000, "3 h 20 min"], [172_800, "2 days"]];
  for (const [seconds, text] of cases) assert.equal(formatDuration(seconds * 1000), text);
});
