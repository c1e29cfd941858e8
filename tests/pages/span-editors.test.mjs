import { openBrowser } from "./support.mjs";

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";

import { addSpan, cellState, spanFields, weekRows } from "../../api/static/span-editors.js";

beforeEach(() => openBrowser());

describe("one more span", () => {
  const cases = {
    "is 09:00 to 17:00 on a closed day": [[], [["09:00", "17:00"]]],
    "begins an hour after the last": [[["09:00", "12:00"]], [["09:00", "12:00"], ["13:00", "24:00"]]],
    "extends the last if less than two hours of the day are left": [[["09:00", "22:30"]], [["09:00", "24:00"]]],
    "is not added if less than an hour is left": [[["09:00", "23:00"]], [["09:00", "23:00"]]],
    "is not added after a span past midnight": [[["22:00", "02:00"]], [["22:00", "02:00"]]],
  };
  for (const [name, [spans, expected]] of Object.entries(cases)) {
    test(name, () => assert.deepEqual(addSpan(spans), expected));
  }
});

describe("the fields of a day", () => {
  let changes, fields;
  beforeEach(() => {
    changes = [];
    const spans = [["09:00", "12:00"], ["14:00", "18:00"]];
    fields = spanFields(spans, "weekly.mon", "Monday", (changed) => changes.push(changed));
  });
  const input = (label) => fields.querySelector(`[aria-label="${label}"]`);
  const type = (field, text) => {
    field.value = text;
    field.fire("change", { target: field });
  };

  test("are named for people and for the API's errors", () => {
    const names = (attribute) => fields.querySelectorAll("input").map((field) => field.getAttribute(attribute));
    assert.deepEqual(names("aria-label"), ["Monday from", "Monday to", "Monday from", "Monday to"]);
    assert.deepEqual(names("data-path"), ["weekly.mon[0]", "weekly.mon[0]", "weekly.mon[1]", "weekly.mon[1]"]);
  });

  test("take a time as people type it", () => {
    type(input("Monday from"), "830");
    assert.equal(input("Monday from").value, "08:30");
    assert.deepEqual(changes, [[["08:30", "12:00"], ["14:00", "18:00"]]]);
  });

  test("are marked if they are wrong", () => {
    type(input("Monday to"), "25");
    assert.equal(input("Monday to").getAttribute("aria-invalid"), "true");
    assert.deepEqual(changes, [[["09:00", "25:00"], ["14:00", "18:00"]]]);
  });

  test("are removed, and added", () => {
    input("Monday: remove 09:00 to 12:00").fire("click");
    input("Monday: add times").fire("click");
    assert.deepEqual(changes, [[["14:00", "18:00"]], [["09:00", "12:00"], ["14:00", "18:00"], ["19:00", "24:00"]]]);
  });

  test("of a closed day say so", () => {
    assert.match(spanFields([], "weekly.mon", "Monday", () => {}).textContent, /^ClosedOpen$/);
  });
});

test("a half hour is open, partly open, open from the day before, or closed", () => {
  const stateAt = (index) => cellState(index * 30, [["09:15", "10:00"]], [["22:00", "01:00"]]);
  assert.deepEqual([0, 1, 2, 18, 19, 20].map(stateAt), ["over", "over", "", "part", "open", ""]);
  assert.equal(cellState(540, [["09:00", "09:15"], ["09:15", "09:30"]], []), "open");
});

describe("the week", () => {
  const closed = { mon: [], tue: [], wed: [], thu: [], fri: [], sat: [], sun: [] };
  let changes;
  const week = (weekly) => weekRows({ ...closed, ...weekly }, "wed", (day, spans) => changes.push([day, spans]));
  const cells = (row) => row.querySelector(".cells");
  /** Drags over the cells of a row, which is as wide as it has cells. */
  const drag = (bar, from, to) => {
    bar.getBoundingClientRect = () => ({ left: 100, width: 48 });
    bar.setPointerCapture = () => {};
    bar.fire("pointerdown", { clientX: 100 + from, pointerId: 1 });
    bar.fire("pointermove", { clientX: 100 + to, pointerId: 1 });
    bar.fire("pointerup", { clientX: 100 + to, pointerId: 1 });
  };
  beforeEach(() => {
    changes = [];
  });

  test("has a row for each day, and marks today", () => {
    const names = week({}).slice(1).map((row) => row.querySelector("h3").textContent);
    assert.deepEqual(names, ["Monday", "Tuesday", "Wednesday, today", "Thursday", "Friday", "Saturday", "Sunday"]);
  });

  test("shows Sunday's night on Monday", () => {
    const [, monday, tuesday] = week({ sun: [["22:00", "02:00"]] });
    const over = (row) => cells(row).children.filter(({ className }) => className === "over").length;
    assert.deepEqual([over(monday), over(tuesday)], [4, 0]);
  });

  test("is opened by dragging, in either direction and beyond the edge", () => {
    const [, monday, tuesday, wednesday] = week({});
    drag(cells(monday), 18, 27);
    drag(cells(tuesday), 27, 18);
    drag(cells(wednesday), 40, 99);
    const hours = { mon: [["09:00", "14:00"]], tue: [["09:00", "14:00"]], wed: [["20:00", "24:00"]] };
    assert.deepEqual(Object.fromEntries(changes), hours);
  });

  test("is closed by dragging from an open half hour", () => {
    const [, monday] = week({ mon: [["09:00", "18:00"]] });
    drag(cells(monday), 24, 25);
    assert.deepEqual(changes, [["mon", [["09:00", "12:00"], ["13:00", "18:00"]]]]);
  });

  test("shows the drag before it ends, and nothing of one that is cancelled", () => {
    const [, monday] = week({});
    const bar = cells(monday);
    bar.getBoundingClientRect = () => ({ left: 0, width: 48 });
    bar.setPointerCapture = () => {};
    bar.fire("pointerdown", { clientX: 10, pointerId: 1 });
    bar.fire("pointermove", { clientX: 12, pointerId: 1 });
    assert.equal(bar.children.filter(({ className }) => className === "open").length, 3);
    bar.fire("pointercancel");
    bar.fire("pointerup", { clientX: 12, pointerId: 1 });
    assert.deepEqual(changes, []);
  });

  test("is dragged over although a time is wrong", () => {
    const [, monday] = week({ mon: [["09:00", "25:00"]] });
    drag(cells(monday), 18, 27);
    assert.deepEqual(changes, [["mon", [["09:00", "14:00"]]]]);
  });
});
