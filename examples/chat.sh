#!/bin/sh
# Sends a chat and follows its conversation, with curl. Usage: chat.sh TEXT [COUNT]
#
# SHOPTALK_URL and SHOPTALK_KEY say where, and as whom. Prints COUNT chats (default 1) as JSON, from the first on.
set -eu
url=${SHOPTALK_URL:-http://localhost:8000}
conversation=${CONVERSATION:-7}

private=$(mktemp -d)
curl=
trap 'rm -rf "$private"; [ -z "$curl" ] || kill "$curl" 2>/dev/null || :' EXIT
trap 'exit 1' HUP INT TERM # without it, a signal would skip the cleanup above
umask 077
# The key goes into a file, because every user of the machine can read curl's arguments. printf is a shell builtin.
printf '%s\n' "${SHOPTALK_KEY:+Authorization: Bearer $SHOPTALK_KEY}" >"$private/key"

# --retry is safe: we chose the chat's id, so a repeat is accepted once.
call() { curl -sS --fail-with-body --max-time 30 --retry 10 --retry-connrefused -H "@$private/key" "$@"; }

call "$url/v1/clients" -d client_id=1 -d username=Ann -d location=Oslo >/dev/null
call "$url/v1/operators" -d operator_id=1 -d operator_name=Olga -d operator_group=day -d store_id=1 >/dev/null
chat_id=$((4503599627370496 + $(od -An -N4 -tu4 /dev/urandom)))
call "$url/v1/chats" -d chat_id="$chat_id" -d conversation_id="$conversation" -d client_id=1 -d operator_id=1 \
    --data-urlencode "payload=$1" >/dev/null

# The conversation's chats from the first on, as they are sent. Reconnects with its cursor after any failure.
# --speed-*: something comes every 12 s; a connection silent for 30 s is dead.
left=${2:-1}
cursor=0
mkfifo "$private/stream"
while :; do
    curl -sN --connect-timeout 30 --speed-limit 1 --speed-time 30 -H "@$private/key" -H "Last-Event-ID: $cursor" \
        "$url/v1/stream?conversation_id=$conversation" >"$private/stream" &
    curl=$!
    event='' id='' data=''
    while IFS= read -r line; do
        case $line in
            "event: "*) event=${line#event: } ;;
            "id: "*) id=${line#id: } ;;
            "data: "*) data=${line#data: } ;;
            "") # an empty line ends the event; without it the event may be incomplete
                cursor=${id:-$cursor}
                if [ "$event" = chat ]; then
                    printf '%s\n' "$data"
                    left=$((left - 1))
                    [ "$left" -gt 0 ] || exit 0
                fi
                event='' id='' data=''
                ;;
        esac
    done <"$private/stream"
    sleep 1
done
