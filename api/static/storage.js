/** What the pages store in this browser; until the page is closed where storage is blocked, as it can be in a frame. */

const PREFIX = "shoptalk:";
const CREDENTIAL = "shoptalk:key";

/** @type {Map<string, string>} */
const memory = new Map();

/**
 * Runs `work` with the named storage, or with the page's own memory if the browser blocks that storage.
 * @template T
 * @param {"localStorage" | "sessionStorage"} name
 * @param {(storage: Pick<Storage, "getItem" | "setItem" | "removeItem">) => T} work
 * @returns {T}
 */
function withStorage(name, work) {
  try {
    return work(window[name]);
  } catch {
    return work({
      getItem: (key) => memory.get(key) ?? null,
      setItem: (key, value) => void memory.set(key, value),
      removeItem: (key) => void memory.delete(key),
    });
  }
}

/**
 * Reads the JSON value stored under `key`, or returns `fallback`.
 * @param {string} key
 * @param {any} [fallback]
 * @returns {any}
 */
export function loadItem(key, fallback = null) {
  try {
    return JSON.parse(withStorage("localStorage", (storage) => storage.getItem(PREFIX + key)) ?? "null") ?? fallback;
  } catch {
    return fallback;
  }
}

/**
 * Lists the stored keys that begin with `prefix`, also those of earlier pages; none where storage is blocked.
 * @param {string} prefix
 */
export function listKeys(prefix) {
  const keys = withStorage("localStorage", (storage) => Object.keys(storage));
  return keys.filter((key) => key.startsWith(PREFIX + prefix)).map((key) => key.slice(PREFIX.length));
}

/**
 * Stores a JSON value. An empty string, an empty list and null remove the key.
 * @param {string} key
 * @param {any} value
 */
export function saveItem(key, value) {
  const isEmpty = value === null || value.length === 0;
  withStorage("localStorage", (storage) =>
    isEmpty ? storage.removeItem(PREFIX + key) : storage.setItem(PREFIX + key, JSON.stringify(value)),
  );
}

/** The API key or token of this tab: forgotten when the tab is closed, and never part of an address that is sent. */
export const loadCredential = () => withStorage("sessionStorage", (storage) => storage.getItem(CREDENTIAL));

/** @param {string} credential */
export const saveCredential = (credential) =>
  withStorage("sessionStorage", (storage) => storage.setItem(CREDENTIAL, credential));

const TOKEN_PREFIX = "#token=";

/**
 * Stores the token of an address such as /desk?operator_id=1#token=…&7 and removes it from the address.
 * The browser does not send a fragment to any server. Every page calls this first.
 */
export function takeToken() {
  if (!location.hash.startsWith(TOKEN_PREFIX)) return;
  const [token, hash = ""] = location.hash.slice(TOKEN_PREFIX.length).split("&");
  saveCredential(token);
  history.replaceState(null, "", `${location.pathname}${location.search}${hash && `#${hash}`}`);
}
