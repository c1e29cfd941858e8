/** Calls to the API: with the key if one is wanted, and every failure as one of two errors. */

import { askForKey } from "./key.js";
import { apiKey } from "./kept.js";

/** The API said no; the same request would get the same answer. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the server answered ${status}`);
    this.status = status;
    this.errors = problem.errors ?? []; // [{field, reason}]
  }
}

/** The network, the server or its database is away; the same request may be sent again. */
export class Unreachable extends Error {}

const CALL_MS = 30_000; // a connection that died with the laptop asleep says nothing for a quarter of an hour

/** fetch() with the key, asking for one where the server wants it. Raises Refused and Unreachable. */
export async function open(path, options = {}) {
  const key = apiKey();
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(CALL_MS), ...options, headers });
  } catch (error) {
    throw new Unreachable(error.message);
  }
  if (response.ok) return response;
  if (response.status === 401) {
    if (!(await askForKey(key))) throw new Unreachable("there is no new pass yet");
    return open(path, options);
  }
  if (response.status >= 500 || response.status === 429) throw new Unreachable(`the server answered ${response.status}`);
  throw new Refused(response.status, await response.json().catch(() => ({})));
}

/** One call with JSON both ways: {data, next}, where `next` is the address of the following page. */
export async function call(method, path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await open(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  const next = response.headers.get("Link")?.match(/<([^>]+)>; rel="next"/)?.[1];
  try {
    return { data: response.status === 204 ? null : await response.json(), next };
  } catch (error) {
    throw new Unreachable(error.message); // cut off in the middle
  }
}

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;

/** How long to wait after so many failures: at random, so that a thousand pages do not come back at once. */
export function backoff(failures) {
  return Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** failures) * (0.3 + 0.7 * Math.random());
}

/** Does `work` until the server is reached, telling each failure to `failed`. Raises Refused. */
export async function untilReached(work, failed) {
  for (let failures = 0; ; failures += 1) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      failed(error);
      await new Promise((done) => setTimeout(done, backoff(failures)));
    }
  }
}
