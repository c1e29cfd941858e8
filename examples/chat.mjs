// Sends a chat and follows its conversation, with Node 18 and no package. Usage: node chat.mjs TEXT [COUNT]
//
// SHOPTALK_URL and SHOPTALK_KEY say where, and as whom. Prints COUNT chats (default 1), from the first on.

const { SHOPTALK_URL: url = "http://localhost:8000", SHOPTALK_KEY: key, CONVERSATION: conversationId = "7" } = process.env;
const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
const SILENCE_MS = 30_000; // something comes every 12 s: a connection silent for this long is dead
const seconds = (number) => new Promise((resolve) => setTimeout(resolve, number * 1000));

// The API's answer. Retries while the API is unavailable: because we chose the chat's id, a repeat is accepted once.
async function call(method, path, body) {
  for (;;) {
    let wait = 1;
    try {
      const answer = await fetch(url + path, {
        method, headers, body: JSON.stringify(body), signal: AbortSignal.timeout(SILENCE_MS),
      });
      const data = await answer.json();
      if (answer.ok) return data;
      if (answer.status !== 429 && answer.status !== 503) throw new RangeError(data.detail);
      wait = Number(answer.headers.get("Retry-After") ?? 1);
    } catch (error) {
      if (error instanceof RangeError) throw error;
    }
    await seconds(wait);
  }
}

// The conversation's chats from the first on, as they are sent. Reconnects with its cursor after any failure.
async function* follow() {
  let cursor = "0";
  for (;;) {
    const silence = new AbortController();
    const end = () => silence.abort();
    let timer = setTimeout(end, SILENCE_MS);
    try {
      const answer = await fetch(`${url}/v1/stream?conversation_id=${conversationId}`, {
        headers: { ...headers, "Last-Event-ID": cursor }, signal: silence.signal,
      });
      let text = "";
      for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
        clearTimeout(timer);
        timer = setTimeout(end, SILENCE_MS);
        const events = (text + part).split("\n\n");
        text = events.pop();
        for (const event of events) {
          const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
          cursor = fields.id ?? cursor;
          if (fields.event === "chat") yield JSON.parse(fields.data);
        }
      }
    } catch {
      // connection lost: try the next
    } finally {
      clearTimeout(timer);
    }
    await seconds(1);
  }
}

const [text, count = "1"] = process.argv.slice(2);
await call("POST", "/v1/clients", { client_id: 1, username: "Ann", location: "Oslo" });
await call("POST", "/v1/operators", { operator_id: 1, operator_name: "Olga", operator_group: "day", store_id: 1 });
await call("POST", "/v1/chats", {
  chat_id: 2 ** 52 + Math.floor(Math.random() * 2 ** 52), // chosen here, so that the request can be repeated
  conversation_id: Number(conversationId), client_id: 1, operator_id: 1, payload: text,
});
let number = 0;
for await (const chat of follow()) {
  console.log(chat.seq, chat.sender, chat.payload);
  if (++number === Number(count)) process.exit();
}
