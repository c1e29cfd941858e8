"""Sends a chat and follows its conversation, with Python's standard library. Usage: chat.py TEXT [COUNT]

SHOPTALK_URL and SHOPTALK_KEY say where, and as whom. Prints COUNT chats (default 1), from the first on.
"""

import http.client
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.request

URL = os.environ.get("SHOPTALK_URL", "http://localhost:8000")
HEADERS = {"Content-Type": "application/json"}
if "SHOPTALK_KEY" in os.environ:
    HEADERS["Authorization"] = "Bearer " + os.environ["SHOPTALK_KEY"]


def call(method, path, body=None):
    """Return the API's answer. Retries while the API is unavailable: we chose the id, so a repeat is accepted once."""
    while True:
        request = urllib.request.Request(URL + path, body and json.dumps(body).encode(), HEADERS, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                raise SystemExit(json.load(error)["detail"]) from None
            time.sleep(int(error.headers["Retry-After"] or 1))
        except (OSError, http.client.HTTPException):
            time.sleep(1)


def follow(conversation_id):
    """Yield the conversation's chats from the first on, as they are sent. Reconnects with its cursor."""
    cursor = "0"
    while True:
        headers = HEADERS | {"Last-Event-ID": cursor}
        request = urllib.request.Request(f"{URL}/v1/stream?conversation_id={conversation_id}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as stream:  # something comes every 12 s
                event = {}
                for line in stream:
                    name, _, value = line.decode().rstrip("\n").partition(":")
                    event[name] = value.strip()
                    if not name and not value:  # an empty line ends the event
                        cursor = event.get("id", cursor)
                        if event.get("event") == "chat":
                            yield json.loads(event["data"])
                        event = {}
        except (OSError, http.client.HTTPException):  # the latter: the connection ended inside a chunk
            pass
        time.sleep(1)


def main(text, count="1"):
    """Add a client and an operator, send a chat, and print the conversation."""
    call("POST", "/v1/clients", {"client_id": 1, "username": "Ann", "location": "Oslo"})
    operator = {"operator_id": 1, "operator_name": "Olga", "operator_group": "day", "store_id": 1}
    call("POST", "/v1/operators", operator)
    chat = {"chat_id": 2**52 + secrets.randbelow(2**52), "client_id": 1, "operator_id": 1, "payload": text}
    conversation_id = int(os.environ.get("CONVERSATION", "7"))
    call("POST", "/v1/chats", chat | {"conversation_id": conversation_id})
    for number, sent in enumerate(follow(conversation_id), start=1):
        print(sent["seq"], sent["sender"], sent["payload"], flush=True)
        if number == int(count):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
