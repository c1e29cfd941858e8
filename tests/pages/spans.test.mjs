import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { isTime, normalizeTime, paint, toMinutes } from "../../api/static/spans.js";

describe("a span in minutes", () => {
  test("counts from the day's midnight", () => assert.deepEqual(toMinutes(["09:00", "14:30"]), [540, 870]));
  test("may end on the next day", () => assert.deepEqual(toMinutes(["22:00", "02:00"]), [1320, 1560]));
  test("ends at 24:00 for the whole day", () => assert.deepEqual(toMinutes(["00:00", "24:00"]), [0, 1440]));
  test("with equal ends is 24 hours long", () => assert.deepEqual(toMinutes(["09:00", "09:00"]), [540, 1980]));
});

describe("opening a part of the day", () => {
  const cases = {
    "opens a closed day": [[], 540, 840, [["09:00", "14:00"]]],
    "adds a span, in order": [[["15:00", "18:00"]], 540, 840, [["09:00", "14:00"], ["15:00", "18:00"]]],
    "merges spans that touch": [[["09:00", "12:00"], ["14:00", "18:00"]], 720, 840, [["09:00", "18:00"]]],
    "merges spans that overlap": [[["09:00", "12:00"]], 660, 780, [["09:00", "13:00"]]],
    "changes nothing inside a span": [[["09:00", "18:00"]], 600, 660, [["09:00", "18:00"]]],
    "opens the whole day": [[["09:00", "12:00"]], 0, 1440, [["00:00", "24:00"]]],
    "keeps a span that runs past midnight": [[["22:00", "02:00"]], 1260, 1320, [["21:00", "02:00"]]],
    "is 24 hours at most": [[["22:00", "03:00"]], 0, 1440, [["00:00", "24:00"]]],
  };
  for (const [name, [spans, from, to, expected]] of Object.entries(cases)) {
    test(name, () => assert.deepEqual(paint(spans, from, to, true), expected));
  }
});

describe("closing a part of the day", () => {
  const cases = {
    "splits a span": [[["09:00", "18:00"]], 720, 780, [["09:00", "12:00"], ["13:00", "18:00"]]],
    "shortens a span at its start": [[["09:00", "18:00"]], 480, 600, [["10:00", "18:00"]]],
    "shortens a span at its end": [[["09:00", "18:00"]], 1020, 1200, [["09:00", "17:00"]]],
    "removes a span": [[["09:00", "12:00"], ["14:00", "18:00"]], 540, 720, [["14:00", "18:00"]]],
    "keeps the part of a span after midnight": [[["22:00", "02:00"]], 1320, 1380, [["23:00", "02:00"]]],
    "removes what would be left on the next day alone": [[["22:00", "02:00"]], 1320, 1440, []],
  };
  for (const [name, [spans, from, to, expected]] of Object.entries(cases)) {
    test(name, () => assert.deepEqual(paint(spans, from, to, false), expected));
  }
});

test("times are accepted as people type them", () => {
  for (const text of ["930", "0930", "9:30", "9.30", "9h30", "9 30", "09:30", " 9:30 "]) {
    assert.equal(normalizeTime(text), "09:30", text);
  }
  for (const [text, time] of [["9", "09:00"], ["09", "09:00"], ["24", "24:00"], ["1730", "17:30"]]) {
    assert.equal(normalizeTime(text), time);
  }
  for (const text of ["", "noon", "9:3", "12:345"]) assert.equal(normalizeTime(` ${text} `), text);
});

test("a time is between 00:00 and 24:00", () => {
  for (const text of ["00:00", "09:30", "23:59", "24:00"]) assert.ok(isTime(text), text);
  for (const text of ["24:01", "25:00", "9:00", "09:60", "", "noon", "09:00 "]) assert.ok(!isTime(text), text);
});
