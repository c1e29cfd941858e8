/** The hours page: the week, exceptions, and what happens while the store is closed; with a preview of the effect. */

/** @import { Exception, Hours } from "./hours-model.js" */

import { call, messageOf, RejectedError, retryUntilReached } from "./api.js";
import { byId, el, inputById } from "./dom.js";
import { describeEffect, explainReason, findNewDays, isErrorOf, readHours, toggleYearly } from "./hours-model.js";
import { spanFields, weekRows } from "./span-editors.js";
import { takeToken } from "./storage.js";
import { watchStore } from "./store-status.js";
import { LOCAL_ZONE } from "./time.js";

const PREVIEW_WAIT_MS = 300;
const NO_CONNECTION = "No connection. Trying again…";
const PARTIES = ["operator", "client"];

const store_id = Number(new URLSearchParams(location.search).get("store_id"));
/** @type {Hours} as the server has them */
let saved;
/** @type {Hours} as the page shows them */
let hours;
/** @type {number | undefined} */
let timer;
let edits = 0; // a preview is shown only if nothing was edited since it was requested
let refreshStore = () => {};

const path = (suffix = "") => `/v1/stores/${store_id}/hours${suffix}`;
const isUnchanged = () => JSON.stringify(hours) === JSON.stringify(saved);

// Showing -----------------------------------------------------------------------------------------

function render() {
  inputById("timezone").value = hours.timezone;
  byId("away", HTMLTextAreaElement).value = hours.away_notice ?? "";
  inputById("pace").value = String(hours.pace_per_minute ?? "");
  for (const party of PARTIES) inputById(`urgent-${party}`).checked = hours.urgent.includes(party);
  renderWeek();
  renderExceptions();
}

function renderWeek() {
  const rows = weekRows(hours.weekly, findToday(), (day, spans) => {
    hours.weekly[day] = spans;
    renderWeek();
    handleEdit();
  });
  refill(byId("week"), rows);
}

function findToday() {
  const zone = Intl.supportedValuesOf("timeZone").includes(hours.timezone) ? hours.timezone : LOCAL_ZONE;
  return new Intl.DateTimeFormat("en", { weekday: "short", timeZone: zone }).format().toLowerCase();
}

function renderExceptions() {
  refill(byId("days"), hours.exceptions.map(makeExceptionRow));
}

/**
 * @param {Exception} day
 * @param {number} index
 */
function makeExceptionRow(day, index) {
  const path = `exceptions[${index}]`;
  const label = day.name ?? day.date ?? day.yearly ?? "";
  /** @param {Exception} changed */
  const replace = (changed) => {
    hours.exceptions[index] = changed;
    renderExceptions();
    handleEdit();
  };
  // A field keeps the focus while it changes its exception: the row is not made again.
  /** @param {Partial<Exception>} changes */
  const change = (changes) => {
    day = hours.exceptions[index] = { ...day, ...changes };
    handleEdit();
  };
  const recurrence = el(
    "select",
    { "aria-label": "How often", onchange: () => replace(toggleYearly(day, new Date().getFullYear())) },
    el("option", { selected: day.yearly === undefined }, "Once"),
    el("option", { selected: day.yearly !== undefined }, "Every year"),
  );
  const name = el("input", {
    value: day.name ?? "", maxlength: 100, placeholder: "Name (optional)", "aria-label": "Name",
    "data-path": `${path}.name`,
    onchange: () => change({ name: name.value.trim() || undefined }),
  });
  const remove = () => {
    hours.exceptions.splice(index, 1);
    renderExceptions();
    handleEdit();
  };
  return el(
    "li",
    { class: "different" },
    el("div", { class: "date" }, recurrence, makeDateField(day, path, change)),
    name,
    spanFields(day.spans, `${path}.spans`, label, (spans) => replace({ ...day, spans })),
    el("button", { class: "quiet remove", type: "button", "aria-label": `Remove ${label}`, onclick: remove }, "Remove"),
    el("p", { class: "error small", "data-problem": path, hidden: true }),
  );
}

/**
 * @param {Exception} day
 * @param {string} path
 * @param {(changes: Partial<Exception>) => void} change
 */
function makeDateField({ date, yearly }, path, change) {
  if (yearly === undefined) {
    const field = el("input", {
      value: date, type: "date", "aria-label": "Date", "data-path": path,
      onchange: () => change({ date: field.value }),
    });
    return field;
  }
  const field = el("input", {
    value: yearly, maxlength: 5, placeholder: "12-25", "aria-label": "Month and day", "data-path": path,
    onchange: () => change({ yearly: field.value.trim() }),
  });
  return field;
}

/**
 * Replaces the rows; the focus stays on the element with the same label.
 * @param {HTMLElement} parent
 * @param {HTMLElement[]} rows
 */
function refill(parent, rows) {
  const label = parent.contains(document.activeElement) && document.activeElement?.getAttribute("aria-label");
  parent.replaceChildren(...rows);
  if (label) /** @type {HTMLElement | null} */ (parent.querySelector(`[aria-label="${CSS.escape(label)}"]`))?.focus();
}

// Changing ----------------------------------------------------------------------------------------

function handleEdit() {
  byId("undo", HTMLButtonElement).disabled = isUnchanged();
  byId("save", HTMLButtonElement).disabled = true;
  clearTimeout(timer);
  edits += 1;
  showErrors([]);
  if (isUnchanged()) showMessage("No unsaved changes.");
  else {
    showMessage("…");
    timer = setTimeout(preview, PREVIEW_WAIT_MS);
  }
}

/** @param {string} text */
function showMessage(text, isError = false) {
  byId("preview").textContent = text;
  byId("preview").classList.toggle("bad", isError);
}

const showNoConnection = () => showMessage(NO_CONNECTION, true);

async function preview() {
  const current = edits;
  try {
    const { data } = await retryUntilReached(() => call("PUT", path("?dry_run=true"), hours), showNoConnection);
    if (current !== edits) return;
    showMessage(`Not saved yet. ${describeEffect(data, "would")}`);
    byId("save", HTMLButtonElement).disabled = false;
  } catch (error) {
    if (current === edits) handleRejection(error);
  }
}

async function save() {
  byId("save", HTMLButtonElement).disabled = true;
  try {
    const { data } = await retryUntilReached(() => call("PUT", path(), hours), showNoConnection);
    showSaved(readHours(data));
    showMessage(`Saved. ${describeEffect(data, "will")}`);
    refreshStore();
  } catch (error) {
    handleRejection(error);
  }
}

/** @param {unknown} error */
function handleRejection(error) {
  if (!(error instanceof RejectedError)) throw error;
  showMessage(error.errors.length ? "Please correct the errors above." : error.message, true);
  showErrors(error.errors);
}

/**
 * Shows each error at the field with the path that the API names, or at the closest element around it.
 * @param {{field: string, reason: string}[]} errors
 */
function showErrors(errors) {
  /** @type {HTMLElement[]} */
  const fields = [...document.querySelectorAll(/** @type {"input"} */ ("[data-path]"))];
  /** @type {HTMLElement[]} */
  const messages = [...document.querySelectorAll(/** @type {"p"} */ ("[data-problem]"))];
  for (const field of fields) field.removeAttribute("aria-invalid");
  for (const message of messages) message.hidden = true;
  for (const { field: errorPath, reason } of errors) {
    for (const field of fields) {
      if (isErrorOf(errorPath, field.dataset.path ?? "")) field.setAttribute("aria-invalid", "true");
    }
    const message = messages.find((one) => errorPath.startsWith(one.dataset.problem ?? ""));
    if (message) {
      message.textContent = explainReason(reason);
      message.hidden = false;
    } else showMessage(`${errorPath}: ${reason}`, true);
  }
}

/** @param {SubmitEvent} event */
async function addHolidays(event) {
  event.preventDefault();
  const year = Number(inputById("year").value);
  const country = inputById("country").value.toUpperCase();
  const subdivision = inputById("subdivision").value.trim() || undefined;
  const result = byId("holidays-said");
  try {
    const { data } = await call("POST", path("/holidays?dry_run=true"), { country, years: [year], subdivision });
    const added = findNewDays(hours.exceptions, data.exceptions, year);
    hours.exceptions.push(...added);
    result.textContent = added.length === 1 ? "1 day added as closed." : `${added.length} days added as closed.`;
    renderExceptions();
    handleEdit();
  } catch (error) {
    result.textContent = messageOf(error);
  }
}

// Start -------------------------------------------------------------------------------------------

/** @param {Hours} latest */
function showSaved(latest) {
  saved = latest;
  hours = structuredClone(saved);
  render();
  handleEdit();
}

function prepare() {
  byId("zones").append(...Intl.supportedValuesOf("timeZone").map((zone) => el("option", { value: zone })));
  inputById("year").value = String(new Date().getFullYear());
  onFieldChange("timezone", (value) => {
    hours.timezone = value.trim();
    renderWeek();
  });
  onFieldChange("away", (value) => {
    hours.away_notice = value.trim() || null;
  });
  onFieldChange("pace", (value) => {
    hours.pace_per_minute = value ? Number(value) : null;
  });
  for (const party of PARTIES) {
    onFieldChange(`urgent-${party}`, () => {
      hours.urgent = PARTIES.filter((one) => inputById(`urgent-${one}`).checked);
    });
  }
  byId("add-day").addEventListener("click", () => {
    hours.exceptions.push({ date: new Date(Date.now() + 86_400_000).toISOString().slice(0, 10), spans: [] });
    renderExceptions();
    byId("days").lastElementChild?.querySelector("input")?.focus();
    handleEdit();
  });
  byId("holidays").addEventListener("submit", addHolidays);
  byId("undo").addEventListener("click", () => showSaved(saved));
  byId("save").addEventListener("click", save);
  addEventListener("beforeunload", (event) => {
    if (!isUnchanged()) event.preventDefault();
  });
}

/**
 * @param {string} id
 * @param {(value: string) => void} put
 */
function onFieldChange(id, put) {
  const field = /** @type {HTMLInputElement | HTMLTextAreaElement} */ (byId(id));
  field.addEventListener("change", () => {
    put(field.value);
    handleEdit();
  });
}

function askForStore(problem = "") {
  byId("choose").hidden = false;
  byId("choose-problem").textContent = problem;
  byId("number").focus();
}

async function start() {
  takeToken();
  if (!store_id) return askForStore();
  const status = byId("store");
  try {
    const { data } = await retryUntilReached(
      () => call("GET", path()),
      () => {
        status.textContent = NO_CONNECTION;
      },
    );
    prepare();
    byId("to-desk", HTMLAnchorElement).href = `/desk?store_id=${store_id}`;
    byId("title").textContent = `Opening hours of store ${store_id}`;
    byId("editor").hidden = byId("foot").hidden = false;
    showSaved(readHours(data));
  } catch (error) {
    if (!(error instanceof RejectedError)) throw error;
    return askForStore(error.message);
  }
  refreshStore = watchStore(store_id, ({ text }) => {
    status.textContent = text;
  });
}

start();
