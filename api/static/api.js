/** Requests to the API: they carry the credential if there is one, and every failure is one of two errors. */

import { signIn } from "./sign-in.js";
import { loadCredential } from "./storage.js";

/**
 * The API rejected the request; the same request would be rejected again.
 */
export class RejectedError extends Error {
  /**
   * @param {number} status
   * @param {{detail?: string, errors?: {field: string, reason: string}[]}} problem
   */
  constructor(status, problem) {
    super(problem.detail ?? `the server answered ${status}`);
    this.status = status;
    this.errors = problem.errors ?? [];
  }
}

/** The network, the server or its database is down; the same request may be sent again. */
export class UnreachableError extends Error {}

const TIMEOUT_MS = 30_000; // a connection that died while the laptop slept reports nothing for 15 minutes

/**
 * fetch() with the credential; asks for one if the server wants one. Throws RejectedError and UnreachableError.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function request(path, options = {}) {
  const credential = loadCredential();
  const headers = { ...options.headers, ...(credential && { Authorization: `Bearer ${credential}` }) };
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options, headers });
  } catch (error) {
    throw new UnreachableError(messageOf(error));
  }
  if (response.ok) return response;
  if (response.status === 401) {
    if (!(await signIn(credential))) throw new UnreachableError("there is no new token yet");
    return request(path, options);
  }
  if (response.status >= 500 || response.status === 429) {
    throw new UnreachableError(`the server answered ${response.status}`);
  }
  throw new RejectedError(response.status, await response.json().catch(() => ({})));
}

/**
 * One request with JSON in both directions; `next` is the address of the following page, if there is one.
 * Throws RejectedError and UnreachableError.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<{data: any, next: string | undefined}>}
 */
export async function call(method, path, body) {
  /** @type {Record<string, string>} */
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const text = body === undefined ? undefined : JSON.stringify(body);
  const response = await request(path, { method, headers, body: text, cache: "no-store" });
  const next = response.headers.get("Link")?.match(/<([^>]+)>; rel="next"/)?.[1];
  try {
    return { data: response.status === 204 ? null : await response.json(), next };
  } catch (error) {
    throw new UnreachableError(messageOf(error)); // the answer was cut off
  }
}

/** @param {unknown} error */
export const messageOf = (error) => (error instanceof Error ? error.message : String(error));

const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 15_000;

/**
 * Milliseconds to wait after that many failures; random, so that a thousand pages do not reconnect at the same moment.
 * @param {number} failures
 */
export function backoff(failures) {
  return Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** failures) * (0.3 + 0.7 * Math.random());
}

/**
 * Runs `work` until the server is reached; reports each failure to `onFailure`. Throws RejectedError.
 * @template T
 * @param {() => Promise<T>} work
 * @param {(error: UnreachableError) => void} onFailure
 * @returns {Promise<T>}
 */
export async function retryUntilReached(work, onFailure) {
  for (let failures = 0; ; failures += 1) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof UnreachableError)) throw error;
      onFailure(error);
      await new Promise((resolve) => setTimeout(resolve, backoff(failures)));
    }
  }
}
