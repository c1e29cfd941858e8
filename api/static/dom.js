/** Creates and updates elements. Data goes in as text nodes and attributes, never as markup. */

/** @typedef {Node | string | boolean | null | undefined} Child */

/**
 * Creates an element. Attributes named `on…` are event listeners; attributes and children that are false, null or
 * undefined are left out.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(.../** @type {(Node | string)[]} */ (children.filter((child) => child != null && child !== false)));
  return element;
}

/**
 * The page's element with this id, of the given kind. Throws if the page does not have it.
 * @template {HTMLElement} [Kind=HTMLElement]
 * @param {string} id
 * @param {new () => Kind} [kind]
 * @returns {Kind}
 */
export function byId(id, kind = /** @type {any} */ (HTMLElement)) {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`there is no ${kind.name} with the id ${id}`);
  return element;
}

/** @param {string} id */
export const inputById = (id) => byId(id, HTMLInputElement);

const PROBLEM_MS = 8000;

/**
 * Shows an error for a few seconds: the page has an element with the id "problem" and role="alert".
 * @param {string} text
 */
export function showProblem(text) {
  const element = byId("problem");
  element.textContent = text;
  element.hidden = false;
  setTimeout(() => {
    element.hidden = true;
  }, PROBLEM_MS);
}

/**
 * @typedef {object} Item of a list
 * @property {string} key
 * @property {string} content changes when the element has to be made again
 * @property {() => HTMLElement} make
 */

/** @type {WeakMap<HTMLElement, string>} the content that an element was made from */
const contents = new WeakMap();

/**
 * Makes the children of `parent` match the items, in order. The element of an item whose key and content are unchanged
 * stays, and with it focus, selection and scroll position.
 * @param {HTMLElement} parent
 * @param {Item[]} items
 */
export function updateList(parent, items) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  const focusedKey = parent.contains(focused) ? closestItem(focused)?.dataset.key : undefined;
  const keys = new Set(items.map(({ key }) => key));
  for (const child of childrenOf(parent)) if (!keys.has(child.dataset.key ?? "")) child.remove();
  const old = new Map(childrenOf(parent).map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild; // where the next item belongs
  for (const { key, content, make } of items) {
    let element = old.get(key);
    if (!element || contents.get(element) !== content) {
      const made = make();
      made.dataset.key = key;
      contents.set(made, content);
      if (element && element === next) next = made;
      element?.replaceWith(made);
      element = made;
    }
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  if (focusedKey === undefined || document.activeElement === focused) return;
  // An element loses the focus when it is moved or replaced.
  if (focused?.isConnected) focused.focus({ preventScroll: true });
  else focusItem(parent, focusedKey);
}

/** @param {HTMLElement} parent */
const childrenOf = (parent) => /** @type {HTMLElement[]} */ ([...parent.children]);

/** @param {Element | null} element */
const closestItem = (element) => /** @type {HTMLElement | null | undefined} */ (element?.closest("[data-key]"));

/**
 * @param {HTMLElement} parent
 * @param {string} key
 */
function focusItem(parent, key) {
  const element = childrenOf(parent).find((child) => child.dataset.key === key);
  /** @type {HTMLElement | null | undefined} */ (element?.querySelector("a, button"))?.focus({ preventScroll: true });
}

/**
 * Returns a function that schedules `work` before the next frame, once however often it is called.
 * @param {() => void} work
 */
export function oncePerFrame(work) {
  let isScheduled = false;
  return () => {
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(() => {
      isScheduled = false;
      work();
    });
  };
}

/**
 * Text with its web addresses as links.
 * @param {string} text
 * @returns {(Node | string)[]}
 */
export function linkify(text) {
  return text.split(/(https?:\/\/[^\s<>"']*[^\s<>"'.,;:!?)\]])/).map((part, index) =>
    index % 2 ? el("a", { href: part, target: "_blank", rel: "noopener noreferrer nofollow" }, part) : part,
  );
}

/**
 * Announces it to screen readers: the page has an element with the id "announcer" and role="status".
 * @param {string} text
 */
export function announce(text) {
  byId("announcer").textContent = text;
}
