/** Whether the store is open, said in the page and kept right at each opening and closing. */

import { call } from "./api.js";
import { when } from "./time.js";

const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Calls show({open, timezone, text}) now and at each change. Returns a function that looks again now. */
export function watchStore(store_id, show) {
  let timer = null;
  async function look() {
    clearTimeout(timer);
    let store;
    try {
      store = (await call("GET", `/v1/stores/${store_id}`)).data;
    } catch {
      timer = setTimeout(look, 60_000);
      return;
    }
    const { open, opens_at, closes_at, timezone } = store;
    const change = open ? closes_at : opens_at;
    show({ open, timezone, text: words(open, change, timezone) });
    if (change) timer = setTimeout(look, Math.min(LONGEST_TIMER_MS, Math.max(1000, new Date(change) - Date.now() + 500)));
  }
  look();
  return look;
}

function words(open, change, timezone) {
  if (open) return change ? `Open until ${when(change, timezone)}` : "Open";
  return change ? `Closed, opens ${when(change, timezone)}` : "Closed";
}
