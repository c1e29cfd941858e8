/** What this browser keeps for the page. A frame whose storage is blocked keeps it until it is closed. */

const memory = new Map();

function using(name, work) {
  try {
    return work(window[name]);
  } catch {
    return work({
      getItem: (key) => memory.get(key) ?? null,
      setItem: (key, value) => memory.set(key, value),
      removeItem: (key) => memory.delete(key),
    });
  }
}

/** A value of any JSON kind under `key`, or `otherwise`. */
export function kept(key, otherwise = null) {
  try {
    return JSON.parse(using("localStorage", (store) => store.getItem(`shoptalk:${key}`))) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Under which keys that begin so an earlier page has kept something; where storage is blocked, none has. */
export function keptKeys(prefix) {
  const all = using("localStorage", (store) => Object.keys(store));
  return all.filter((key) => key.startsWith(`shoptalk:${prefix}`)).map((key) => key.slice("shoptalk:".length));
}

/** Keeps it; an empty string, an empty list and null are forgotten. */
export function keep(key, value) {
  const empty = value === null || value.length === 0;
  using("localStorage", (store) =>
    empty ? store.removeItem(`shoptalk:${key}`) : store.setItem(`shoptalk:${key}`, JSON.stringify(value)),
  );
}

/** The API key or token: until the tab is closed, and never in an address that is sent anywhere. */
export const apiKey = () => using("sessionStorage", (store) => store.getItem("shoptalk:key"));
export const keepApiKey = (key) => using("sessionStorage", (store) => store.setItem("shoptalk:key", key));

// A page is opened with its token in the fragment, which stays in the browser; out of the address with it at once.
const PREFIX = "#token=";
if (location.hash.startsWith(PREFIX)) {
  const [token, place = ""] = location.hash.slice(PREFIX.length).split("&");
  keepApiKey(token);
  history.replaceState(null, "", `${location.pathname}${location.search}${place && `#${place}`}`);
}
