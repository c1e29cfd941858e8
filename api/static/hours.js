/** A store's hours: the week, the days that are different, what happens while it is closed; with a preview. */

import { call, Refused, untilReached } from "./api.js";
import { byId, el } from "./dom.js";
import { watchStore } from "./store.js";
import { HERE, when } from "./time.js";
import { spanFields, weekRows } from "./week.js";

const PREVIEW_WAIT_MS = 300;
const NO_HOURS = { exceptions: [], pace_per_minute: null, away_notice: null, urgent: [] };

const store_id = Number(new URLSearchParams(location.search).get("store_id"));
let saved; // as the store has them
let hours; // as they stand on the page
let timer = null;
let asked = 0; // previews, of which only the last one's answer counts
let lookAtStore;

const path = (suffix = "") => `/v1/stores/${store_id}/hours${suffix}`;
const same = () => JSON.stringify(hours) === JSON.stringify(saved);

// Showing -----------------------------------------------------------------------------------------

function render() {
  byId("timezone").value = hours.timezone;
  byId("away").value = hours.away_notice ?? "";
  byId("pace").value = hours.pace_per_minute ?? "";
  for (const who of ["operator", "client"]) byId(`urgent-${who}`).checked = hours.urgent.includes(who);
  renderWeek();
  renderDays();
}

function renderWeek() {
  refill(byId("week"), weekRows(hours.weekly, today(), (day, spans) => {
    hours.weekly[day] = spans;
    renderWeek();
    changed();
  }));
}

function today() {
  const zone = Intl.supportedValuesOf("timeZone").includes(hours.timezone) ? hours.timezone : HERE;
  return new Intl.DateTimeFormat("en", { weekday: "short", timeZone: zone }).format().toLowerCase();
}

function renderDays() {
  refill(byId("days"), hours.exceptions.map(dayRow));
}

function dayRow(day, number) {
  const place = `exceptions[${number}]`;
  const put = (changes, again = true) => {
    hours.exceptions[number] = { ...day, ...changes };
    if (again) renderDays();
    else day = hours.exceptions[number];
    changed();
  };
  const yearly = day.yearly !== undefined;
  const kind = el("select", { "aria-label": "How often", onchange: () => {
    const { date, yearly: each, ...others } = day;
    hours.exceptions[number] = each === undefined ? { yearly: date.slice(5), ...others } : { date: `${new Date().getFullYear()}-${each}`, ...others };
    renderDays();
    changed();
  } }, el("option", { selected: !yearly }, "Once"), el("option", { selected: yearly }, "Every year"));
  const date = yearly
    ? el("input", { value: day.yearly, maxlength: 5, placeholder: "12-25", "aria-label": "Month and day", onchange: (event) => put({ yearly: event.target.value.trim() }, false) })
    : el("input", { value: day.date, type: "date", "aria-label": "Date", onchange: (event) => put({ date: event.target.value }, false) });
  date.dataset.place = place;
  const name = el("input", { value: day.name ?? "", maxlength: 100, placeholder: "Name, if it has one", "aria-label": "Name", "data-place": `${place}.name`,
    onchange: (event) => put({ name: event.target.value.trim() || undefined }, false) });
  const label = day.name ?? day.date ?? day.yearly;
  return el("li", { class: "different" },
    el("div", { class: "date" }, kind, date), name,
    spanFields(day.spans, `${place}.spans`, label, (spans) => put({ spans })),
    el("button", { class: "quiet remove", type: "button", "aria-label": `Take ${label} away`, onclick: () => {
      hours.exceptions.splice(number, 1);
      renderDays();
      changed();
    } }, "Remove"),
    el("p", { class: "error small", "data-problem": place, hidden: true }));
}

/** New rows in place of the old ones; the focus stays on what has the same label. */
function refill(parent, rows) {
  const label = parent.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
  parent.replaceChildren(...rows);
  if (label) [...parent.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === label)?.focus();
}

// Changing ----------------------------------------------------------------------------------------

function changed() {
  byId("undo").disabled = same();
  byId("save").disabled = true;
  clearTimeout(timer);
  asked += 1;
  showProblems([]);
  if (same()) say("As saved.");
  else {
    say("…");
    timer = setTimeout(preview, PREVIEW_WAIT_MS);
  }
}

function say(text, bad = false) {
  byId("preview").textContent = text;
  byId("preview").classList.toggle("bad", bad);
}

async function preview() {
  const mine = asked;
  try {
    const { data } = await untilReached(() => call("PUT", path("?dry_run=true"), hours), () => say("No connection. Trying again…", true));
    if (mine !== asked) return;
    say(`Not saved yet. ${moves(data, "would go", "would go")}`);
    byId("save").disabled = false;
  } catch (error) {
    if (mine === asked) refused(error);
  }
}

function moves({ moved, timezone }, one, many) {
  if (moved.chats === 0) return "No held chat gets another time.";
  const span = ({ first, last }) => {
    if (!first) return "never";
    return last && last !== first ? `${when(first, timezone)} to ${when(last, timezone)}` : when(first, timezone);
  };
  const chats = moved.chats === 1 ? `1 held chat ${one}` : `${moved.chats} held chats ${many}`;
  return `${chats} ${span(moved.to)} instead of ${span(moved.from)}.`;
}

async function save() {
  byId("save").disabled = true;
  try {
    const { data } = await untilReached(() => call("PUT", path(), hours), () => say("No connection. Trying again…", true));
    taken(data);
    say(`Saved. ${moves(data, "now goes", "now go")}`);
    lookAtStore();
  } catch (error) {
    refused(error);
  }
}

function refused(error) {
  if (!(error instanceof Refused)) throw error;
  say(error.errors.length ? "Something has to be put right first, see above." : error.message, true);
  showProblems(error.errors);
}

/** Each problem where it belongs: the field as the API names it, or the closest around it. */
function showProblems(errors) {
  for (const field of document.querySelectorAll("[data-place]")) field.removeAttribute("aria-invalid");
  for (const place of document.querySelectorAll("[data-problem]")) place.hidden = true;
  for (const { field, reason } of errors) {
    for (const input of document.querySelectorAll("[data-place]")) {
      if (field === input.dataset.place || field.startsWith(`${input.dataset.place}[`)) input.setAttribute("aria-invalid", "true");
    }
    const near = [...document.querySelectorAll("[data-problem]")].find((node) => field.startsWith(node.dataset.problem));
    if (near) {
      near.textContent = readable(reason);
      near.hidden = false;
    } else say(`${field}: ${reason}`, true);
  }
}

const readable = (reason) => (reason.startsWith("overlaps") ? "These times overlap with others." : reason.replace(/^String should match pattern.*/, "Expected a time such as 09:00."));

async function addHolidays(event) {
  event.preventDefault();
  const wanted = { country: byId("country").value.toUpperCase(), years: [Number(byId("year").value)] };
  const subdivision = byId("subdivision").value.trim();
  try {
    const body = subdivision ? { ...wanted, subdivision } : wanted;
    const { data } = await call("POST", path("/holidays?dry_run=true"), body);
    const known = new Set(hours.exceptions.map((day) => day.date));
    const fresh = data.exceptions.filter((day) => day.date?.startsWith(wanted.years[0]) && !known.has(day.date));
    hours.exceptions.push(...fresh);
    byId("holidays-said").textContent = fresh.length === 1 ? "1 day added, closed." : `${fresh.length} days added, closed.`;
    renderDays();
    changed();
  } catch (error) {
    byId("holidays-said").textContent = error.message;
  }
}

// Beginning ---------------------------------------------------------------------------------------

/** The hours as the API has them become those of the page. */
function taken({ dry_run, moved, ...document_ }) {
  saved = { ...NO_HOURS, ...document_ };
  hours = structuredClone(saved);
  render();
  changed();
}

function prepare() {
  byId("zones").append(...Intl.supportedValuesOf("timeZone").map((zone) => el("option", { value: zone })));
  byId("year").value = new Date().getFullYear();
  const fields = {
    timezone: (field) => { hours.timezone = field.value.trim(); renderWeek(); },
    away: (field) => { hours.away_notice = field.value.trim() || null; },
    pace: (field) => { hours.pace_per_minute = field.value ? Number(field.value) : null; },
  };
  for (const [id, put] of Object.entries(fields)) {
    byId(id).addEventListener("change", (event) => { put(event.target); changed(); });
  }
  for (const who of ["operator", "client"]) {
    byId(`urgent-${who}`).addEventListener("change", () => {
      hours.urgent = ["operator", "client"].filter((one) => byId(`urgent-${one}`).checked);
      changed();
    });
  }
  byId("add-day").addEventListener("click", () => {
    hours.exceptions.push({ date: new Date(Date.now() + 86_400_000).toISOString().slice(0, 10), spans: [] });
    renderDays();
    byId("days").lastElementChild.querySelector("input").focus();
    changed();
  });
  byId("holidays").addEventListener("submit", addHolidays);
  byId("undo").addEventListener("click", () => taken(saved));
  byId("save").addEventListener("click", save);
  addEventListener("beforeunload", (event) => { if (!same()) event.preventDefault(); });
}

function choose(problem = "") {
  byId("choose").hidden = false;
  byId("choose-problem").textContent = problem;
  byId("number").focus();
}

async function begin() {
  if (!store_id) return choose();
  try {
    const { data } = await untilReached(() => call("GET", path()), () => { byId("store").textContent = "No connection. Trying again…"; });
    prepare();
    byId("to-desk").href = `/desk?store_id=${store_id}`;
    byId("title").textContent = `Hours of store ${store_id}`;
    byId("editor").hidden = byId("foot").hidden = false;
    taken(data);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return choose(error.message);
  }
  lookAtStore = watchStore(store_id, ({ text }) => { byId("store").textContent = text; });
}

begin();
