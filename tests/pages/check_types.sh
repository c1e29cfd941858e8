#!/bin/sh
# Checks the types of api/static/*.js, which are in their comments, with TypeScript. Downloads it from npm the first time.
set -eu
cd "$(dirname "$0")"
[ -x node_modules/.bin/tsc ] || npm ci --silent
exec node_modules/.bin/tsc --project ../..
