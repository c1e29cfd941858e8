/** Whose desk this is: from the address, or asked for. */

/** @import { ListedConversation } from "./conversation-list.js" */

import { byId, el, inputById } from "./dom.js";
import { loadItem, saveItem } from "./storage.js";

/**
 * @typedef {"operator_id" | "store_id"} Kind
 * @typedef {{kind: Kind, number: number, name: string}} Desk
 */

/** @type {Kind[]} */
const KINDS = ["operator_id", "store_id"];
const MAX_RECENT = 5;

/**
 * The owner of the desk in a query string such as "?operator_id=1"; null if it has none.
 * @param {string} search
 */
export function findOwner(search) {
  const query = new URLSearchParams(search);
  const kind = KINDS.find((name) => /^[1-9]\d{0,9}$/.test(query.get(name) ?? ""));
  return kind ? { kind, number: Number(query.get(kind)) } : null;
}

/**
 * The desk's name. It is stored to be offered when the page asks the next time.
 * @param {Kind} kind
 * @param {number} number
 * @param {ListedConversation | undefined} item a conversation of the desk
 */
export function rememberDesk(kind, number, item) {
  const operator = item ? `${item.operator_name}, ${item.operator_group}` : `Operator ${number}`;
  const name = kind === "operator_id" ? operator : `Store ${number}`;
  const others = loadDesks().filter((desk) => desk.kind !== kind || desk.number !== number);
  saveItem("desks", [{ kind, number, name }, ...others].slice(0, MAX_RECENT));
  return name;
}

/** @returns {Desk[]} latest first */
const loadDesks = () => loadItem("desks", []);

/** @param {string} [problem] what is wrong with the desk in the address */
export function askForDesk(problem = "") {
  byId("picker").hidden = false;
  byId("tools").hidden = true;
  byId("pick-problem").textContent = problem;
  const form = byId("pick", HTMLFormElement);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { kind, number } = Object.fromEntries(new FormData(form));
    location.assign(`/desk?${kind}=${Number(number)}`);
  });
  const links = loadDesks().map(({ kind, number, name }) =>
    el("li", {}, el("a", { href: `/desk?${kind}=${number}` }, name)),
  );
  byId("recent").hidden = links.length === 0;
  byId("recent").querySelector("ul")?.replaceChildren(...links);
  inputById("number").focus();
}
