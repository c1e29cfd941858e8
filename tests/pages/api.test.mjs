import { json, networkFails, openBrowser, pass, restore, serve, stopClock } from "./support.mjs";

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { backoff, call, RejectedError, retryUntilReached, UnreachableError } from "../../api/static/api.js";
import { saveCredential } from "../../api/static/storage.js";

beforeEach(() => openBrowser());
afterEach(restore);

test("a call sends and returns JSON", async () => {
  const requests = serve(() => json({ chat_id: 1 }, 201));
  assert.deepEqual(await call("POST", "/v1/chats", { payload: "hi" }), { data: { chat_id: 1 }, next: undefined });
  const [{ path, method, body, headers, cache }] = requests;
  assert.deepEqual([path, method, body, cache], ["/v1/chats", "POST", { payload: "hi" }, "no-store"]);
  assert.deepEqual(headers, { "Content-Type": "application/json" });
});

test("a call has the address of the next page", async () => {
  serve(() => json([], 200, { Link: '</v1/x?before=5>; rel="next"' }));
  assert.equal((await call("GET", "/v1/x")).next, "/v1/x?before=5");
});

test("an empty answer is null", async () => {
  serve(() => new Response(null, { status: 204 }));
  assert.equal((await call("POST", "/v1/conversations/7/typing", {})).data, null);
});

test("the credential is in the header and nowhere else", async () => {
  saveCredential("sesame");
  const requests = serve(() => json({}));
  await call("GET", "/v1/queue");
  assert.equal(requests[0].headers.Authorization, "Bearer sesame");
  assert.ok(!requests[0].path.includes("sesame"));
});

describe("a failure", () => {
  for (const status of [400, 403, 404, 409, 413, 422]) {
    test(`${status} is a rejection, with the reason and the fields`, async () => {
      serve(() => json({ detail: "payload: too long", errors: [{ field: "payload", reason: "too long" }] }, status));
      const error = await call("POST", "/v1/chats", {}).catch((raised) => raised);
      assert.ok(error instanceof RejectedError);
      assert.deepEqual(
        [error.status, error.message, error.errors],
        [status, "payload: too long", [{ field: "payload", reason: "too long" }]],
      );
    });
  }

  test("without a JSON body still has a message", async () => {
    serve(() => new Response("<h1>Not found</h1>", { status: 404 }));
    await assert.rejects(call("GET", "/v1/x"), { message: "the server answered 404", errors: [] });
  });

  for (const [name, answer] of Object.entries({
    "of the network": networkFails,
    500: () => json({}, 500),
    503: () => json({}, 503),
    429: () => json({}, 429),
    "within the answer": () => new Response('{"chat_id": '),
  })) {
    test(`${name} may be sent again`, async () => {
      serve(answer);
      await assert.rejects(call("GET", "/v1/x"), UnreachableError);
    });
  }
});

describe("retrying", () => {
  test("ends with the first answer", async () => {
    stopClock();
    let calls = 0;
    const failures = [];
    serve(() => {
      calls += 1;
      return calls < 3 ? networkFails() : json("reached");
    });
    let result;
    retryUntilReached(
      () => call("GET", "/v1/x"),
      (error) => failures.push(error.message),
    ).then(({ data }) => {
      result = data;
    });
    await pass();
    await pass(500);
    assert.equal(result, undefined);
    await pass(1000);
    assert.deepEqual([result, failures.length, calls], ["reached", 2, 3]);
  });

  test("ends with a rejection", async () => {
    const requests = serve(() => json({}, 404));
    await assert.rejects(
      retryUntilReached(
        () => call("GET", "/v1/x"),
        () => {},
      ),
      RejectedError,
    );
    assert.equal(requests.length, 1);
  });
});

test("waits are random between 30 and 100 % of a doubling time, 15 s at most", () => {
  for (const [failures, longest] of [
    [0, 500],
    [1, 1000],
    [4, 8000],
    [5, 15_000],
    [50, 15_000],
  ]) {
    for (let round = 0; round < 100; round += 1) {
      const wait = backoff(failures);
      assert.ok(wait >= 0.3 * longest && wait <= longest, `${wait} after ${failures}`);
    }
  }
});
