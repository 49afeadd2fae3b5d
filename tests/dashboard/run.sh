#!/usr/bin/env bash
# Drives the dashboard in headless Chromium as a user would. Starts a service on drawn scenes,
# submits and pauses a training through the page, and looks at charts, alarms, checkpoints, search
# and SQL. Leaves screenshots of every page in light, dark and at a phone's width. Then visits every
# page with captions, names and columns that try to be markup or scripts.
# Fails if there is an error in the console, a request to another host, a page wider than a phone,
# or if an expected element is missing.
#
# Usage: tests/dashboard/run.sh DIPTYCH FOLDER
# Needs node, npm and Chromium ($CHROMIUM, or /usr/bin/chromium).
set -euo pipefail
here=$(dirname "$(realpath "$0")")
diptych=$(realpath "$1")
folder=$2
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
folder=$(pwd)
mkdir page
cp "$here"/package.json "$here"/package-lock.json "$here"/*.mjs page
(cd page && npm ci --silent --no-audit --no-fund)

"$diptych" demo-data scenes
"$diptych" ingest 'scenes/*.tar' 'scenes/*.parquet' scenes/folder --dataset data --phash
"$diptych" select --file scenes/train.sql --dataset data --output train.parquet
"$diptych" select --file scenes/heldout.sql --dataset data --output heldout.parquet
node page/hostile.mjs make "$folder"
"$diptych" ingest hostile-files --dataset hostile
"$diptych" token page --scope submit --file tokens.toml > token
cat > diptych.toml <<TOML
state = "$folder/state"
listen = "127.0.0.1:0"
folders = ["$folder"]

[[dataset]]
name = "data"
path = "$folder/data"

[[dataset]]
name = "hostile"
path = "$folder/hostile"

[auth]
tokens = "$folder/tokens.toml"
TOML
"$diptych" serve diptych.toml > serve.log 2>&1 &
daemon=$!
trap 'kill $daemon 2>/dev/null || true; wait $daemon || true' EXIT
token=$(grep -o 'dpt_[A-Za-z0-9_-]*' token | head -1)
node page/click.mjs "$folder" "$token"
"$diptych" profile hostile --output hostile-profile.html
DIPTYCH_TOKEN=$token "$diptych" report clicked --no-model --output hostile-report.html
node page/hostile.mjs visit "$folder" "$token"
rm -r page
echo "Screenshots: $folder/screenshots"
