import { restore, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import {
  describeEffect,
  explainReason,
  findNewDays,
  isErrorOf,
  readHours,
  toggleYearly,
} from "../../api/static/hours-model.js";

test("hours have the API's defaults, and not the effect of the change", () => {
  const weekly = { mon: [["09:00", "17:00"]] };
  const answer = { timezone: "UTC", weekly, away_notice: "Back soon", dry_run: false, moved: { chats: 0 } };
  const defaults = { exceptions: [], pace_per_minute: null, urgent: [] };
  assert.deepEqual(readHours(answer), { timezone: "UTC", weekly, away_notice: "Back soon", ...defaults });
});

describe("the effect of a change", () => {
  beforeEach(() => stopClock("2026-12-01T12:00:00Z"));
  afterEach(restore);

  const never = { first: null, last: null };
  const at = (first, last = first) => ({ first: `2026-12-${first}:00Z`, last: `2026-12-${last}:00Z` });
  const effect = (chats, from, to) => describeEffect({ timezone: "UTC", moved: { chats, from, to } }, "would");

  test("may be none", () => assert.equal(effect(0, never, never), "No held chat changes its release time."));
  test("is one chat", () => {
    const text = "1 held chat would be released at 14:00 (previously: tomorrow at 09:00).";
    assert.equal(effect(1, at("02T09:00"), at("01T14:00")), text);
  });
  test("is several chats over some time", () => {
    const moved = { chats: 3, from: at("02T09:00"), to: at("02T10:00", "02T10:05") };
    const range = "tomorrow at 10:00 to tomorrow at 10:05";
    const text = `3 held chats will be released ${range} (previously: tomorrow at 09:00).`;
    assert.equal(describeEffect({ timezone: "UTC", moved }, "will"), text);
  });
  test("may release chats that had no opening", () => {
    const text = "1 held chat would be released at 14:00 (previously: no opening scheduled).";
    assert.equal(effect(1, never, at("01T14:00")), text);
  });
  test("may leave chats without an opening", () => {
    const text = "2 held chats would not be released, because the store has no opening scheduled";
    assert.equal(effect(2, at("02T09:00"), never), `${text} (previously: tomorrow at 09:00).`);
  });
});

test("an exception is toggled between one date and every year", () => {
  const yearly = { yearly: "12-24", name: "Christmas Eve", spans: [["09:00", "12:00"]] };
  const once = { date: "2027-12-24", name: "Christmas Eve", spans: [["09:00", "12:00"]] };
  assert.deepEqual(toggleYearly(once, 2026), yearly);
  assert.deepEqual(toggleYearly(yearly, 2027), once);
});

test("holidays are added if they are of the year and not in the list yet", () => {
  const known = [{ date: "2027-01-01", spans: [] }, { yearly: "12-25", spans: [] }];
  const found = [...known, { date: "2027-05-01", spans: [] }, { date: "2026-05-01", spans: [] }];
  assert.deepEqual(findNewDays(known, found, 2027), [{ date: "2027-05-01", spans: [] }]);
});

test("an error belongs to the field with its path, and to the fields around it", () => {
  assert.ok(isErrorOf("weekly.mon[0]", "weekly.mon[0]"));
  assert.ok(isErrorOf("weekly.mon[0][1]", "weekly.mon[0]"));
  assert.ok(!isErrorOf("weekly.mon[10]", "weekly.mon[1]"));
  assert.ok(!isErrorOf("timezone", "time"));
});

test("technical reasons are put in other words", () => {
  assert.equal(explainReason("overlaps weekly.wed[0]"), "These times overlap with others.");
  assert.equal(explainReason("String should match pattern '^…$'"), "Expected a time such as 09:00.");
  assert.equal(explainReason("unknown time zone"), "unknown time zone");
});
