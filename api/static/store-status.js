/** Whether the store is open, kept up to date at each opening and closing. */

/**
 * @typedef {{open: boolean, timezone: string, text: string}} StoreStatus
 */

import { call } from "./api.js";
import { formatWhen } from "./time.js";

const MAX_TIMER_MS = 2 ** 31 - 1;
const RETRY_MS = 60_000;

/**
 * Calls `show` now and at each opening and closing. Returns a function that reads the status again now.
 * @param {number} store_id
 * @param {(status: StoreStatus) => void} show
 */
export function watchStore(store_id, show) {
  /** @type {number | undefined} */
  let timer;
  async function refresh() {
    clearTimeout(timer);
    let store;
    try {
      store = (await call("GET", `/v1/stores/${store_id}`)).data;
    } catch {
      timer = setTimeout(refresh, RETRY_MS);
      return;
    }
    const { open, opens_at, closes_at, timezone } = store;
    const changes_at = open ? closes_at : opens_at;
    show({ open, timezone, text: describe(open, changes_at, timezone) });
    if (!changes_at) return;
    const left = Date.parse(changes_at) - Date.now() + 500;
    timer = setTimeout(refresh, Math.min(MAX_TIMER_MS, Math.max(1000, left)));
  }
  refresh();
  return refresh;
}

/**
 * @param {boolean} open
 * @param {string | null} changes_at
 * @param {string} timezone
 */
function describe(open, changes_at, timezone) {
  if (open) return changes_at ? `Open until ${formatWhen(changes_at, timezone)}` : "Open";
  return changes_at ? `Closed, opens ${formatWhen(changes_at, timezone)}` : "Closed";
}
