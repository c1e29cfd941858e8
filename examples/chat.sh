#!/bin/sh
# Sends a chat and follows its conversation, with curl. Usage: chat.sh TEXT [COUNT]
#
# SHOPTALK_URL and SHOPTALK_KEY say where and who. Prints COUNT chats (1 unless told otherwise) as JSON, from the first on.
set -eu
url=${SHOPTALK_URL:-http://localhost:8000}
conversation=${CONVERSATION:-7}
key=${SHOPTALK_KEY:+Authorization: Bearer $SHOPTALK_KEY}

# --retry: with an id of ours, a repeat is accepted once.
call() { curl -sS --fail-with-body --retry 10 --retry-connrefused -H "$key" "$@"; }

call "$url/v1/clients" -d client_id=1 -d username=Ann -d location=Oslo >/dev/null
call "$url/v1/operators" -d operator_id=1 -d operator_name=Olga -d operator_group=day -d store_id=1 >/dev/null
chat_id=$((4503599627370496 + $(od -An -N4 -tu4 /dev/urandom)))
call "$url/v1/chats" -d chat_id="$chat_id" -d conversation_id="$conversation" -d client_id=1 -d operator_id=1 \
    --data-urlencode "payload=$1" >/dev/null

# The conversation's chats from the first on, as they are sent. Comes back by its cursor, whatever is cut.
left=${2:-1}
cursor=0
pipe=$(mktemp -d)
trap 'rm -rf "$pipe"' EXIT
mkfifo "$pipe/stream"
while :; do
    curl -sN -H "$key" -H "Last-Event-ID: $cursor" "$url/v1/stream?conversation_id=$conversation" >"$pipe/stream" &
    curl=$!
    while IFS= read -r line; do
        case $line in
            "event: "*) event=${line#event: } ;;
            "id: "*) cursor=${line#id: } ;;
            "data: "*)
                [ "$event" = chat ] || continue
                printf '%s\n' "${line#data: }"
                left=$((left - 1))
                [ "$left" -gt 0 ] || { kill "$curl"; exit 0; }
                ;;
            *) event= ;;
        esac
    done <"$pipe/stream"
    sleep 1
done
