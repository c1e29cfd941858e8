/** Making and updating elements. Data goes in as text nodes and attributes, never as markup. */

/** An element; `on…` attributes are listeners, false and null are left out. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

const SHOWN_MS = 8000;

/** Says for a while what went wrong. */
export function showProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = false;
  setTimeout(() => {
    byId("problem").hidden = true;
  }, SHOWN_MS);
}

const contents = new WeakMap(); // node -> what it was made from

/**
 * Makes the children of `parent` be the items, in order: [{key, content, make}]. The node of an item whose
 * key and content are as before stays, and with it focus, selection and scroll.
 */
export function show(parent, items) {
  const focused = parent.contains(document.activeElement) && document.activeElement.closest("[data-key]");
  const left = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const { key, content, make } of items) {
    let node = left.get(key);
    left.delete(key);
    if (!node || contents.get(node) !== content) {
      const fresh = make();
      fresh.dataset.key = key;
      contents.set(fresh, content);
      if (node === place && node) place = fresh;
      if (node) node.replaceWith(fresh);
      node = fresh;
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of left.values()) node.remove();
  if (focused && !focused.isConnected) focusIn(parent, focused.dataset.key);
}

function focusIn(parent, key) {
  const node = [...parent.children].find((child) => child.dataset.key === key);
  node?.querySelector("a, button")?.focus({ preventScroll: true });
}

/** Returns a function that asks for `work` to be done once before the next picture is drawn. */
export function soon(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

/** Text with its web addresses as links: [nodes]. */
export function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"']*[^\s<>"'.,;:!?)\]])/).map((part, place) =>
    place % 2 ? el("a", { href: part, target: "_blank", rel: "noopener noreferrer nofollow" }, part) : part,
  );
}

/** Says it to screen readers: the page has an element with the id "announcer" and role="status". */
export function announce(text) {
  byId("announcer").textContent = text;
}
