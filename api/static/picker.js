/** Whose desk this is: from the address, or asked for. */

import { byId, el } from "./dom.js";
import { keep, kept } from "./kept.js";

const KINDS = ["operator_id", "store_id"];
const MOST_RECENT = 5;

/** [kind, number] as the address has them; [null, null]: none. */
export function owner() {
  const query = new URLSearchParams(location.search);
  const kind = KINDS.find((name) => /^[1-9]\d{0,9}$/.test(query.get(name) ?? ""));
  return kind ? [kind, Number(query.get(kind))] : [null, null];
}

/** What to call the desk; it is kept for the next time that somebody has to choose. */
export function remember(kind, number, item) {
  const operator = item ? `${item.operator_name}, ${item.operator_group}` : `Operator ${number}`;
  const name = kind === "operator_id" ? operator : `Store ${number}`;
  const others = kept("desks", []).filter((desk) => desk.kind !== kind || desk.number !== number);
  keep("desks", [{ kind, number, name }, ...others].slice(0, MOST_RECENT));
  return name;
}

/** Asks; `problem` is why the address did not do. */
export function pick(problem = "") {
  byId("picker").hidden = false;
  byId("tools").hidden = true;
  byId("pick-problem").textContent = problem;
  byId("pick").addEventListener("submit", (event) => {
    event.preventDefault();
    const { kind, number } = Object.fromEntries(new FormData(event.target));
    location.assign(`/desk?${kind}=${Number(number)}`);
  });
  const desks = kept("desks", []);
  byId("recent").hidden = desks.length === 0;
  byId("recent").querySelector("ul").replaceChildren(
    ...desks.map(({ kind, number, name }) => el("li", {}, el("a", { href: `/desk?${kind}=${number}` }, name))),
  );
  byId("number").focus();
}
