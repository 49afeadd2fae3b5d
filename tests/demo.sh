#!/usr/bin/env bash
# The demo: turns drawn scenes in three layouts, some of them broken on purpose, into a trained,
# evaluated and exported model. Each step shows its command, which can be run again from this
# folder.
#
# Usage: tests/demo.sh DIPTYCH FOLDER
set -euo pipefail

binary=$(realpath "$1")
folder=$2
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
export PATH="$(dirname "$binary"):$PATH"
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi

step() { printf '\n%s# %s%s\n' "$bold" "$1" "$plain"; }
# Prints a command with quotes only where they are needed, so that the line can be typed again.
show() {
    local word
    printf '%s$' "$bold"
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./=:@-]*) printf " '%s'" "${word//\'/\'\\\'\'}" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '%s\n' "$plain"
    "$@"
}

step "1. Draw scenes with compositional captions in three layouts; some are broken, duplicated or uncaptioned"
show diptych demo-data scenes

step "2. Ingest all three layouts into one dataset. Inputs that cannot become a pair go to the ledger, with the reason"
show diptych ingest 'scenes/*.tar' 'scenes/*.parquet' scenes/folder --dataset data --phash

step "3. Query the dataset and the refused inputs with SQL"
show diptych sql "SELECT format, count(*) AS pairs, min(width) AS narrowest, round(avg(token_count(caption)), 1) AS tokens FROM meta GROUP BY format ORDER BY pairs DESC" --dataset data
show diptych sql "SELECT reason, count(*) AS inputs, min(position) AS example FROM ledger GROUP BY reason ORDER BY inputs DESC" --dataset data

step "4. Select training pairs without junk and near-duplicates, and held-out pairs with unseen compositions"
show diptych select --file scenes/train.sql --dataset data --output train.parquet
show diptych select --file scenes/heldout.sql --dataset data --output heldout.parquet
show diptych select --file scenes/heldout_single.sql --dataset data --output heldout_single.parquet

step "5. Train. If you stop it with Ctrl-C or kill -9 and run it again, it continues to bit-identical weights"
cat > demo.toml <<'TOML'
name = "demo"
state = "state"
seed = 1

[data]
dataset = "data"
selection = "train.parquet"

[model]
config = "demo"

[train]
batch_size = 64
epochs = 14

[optimizer]
lr = 1e-3
warmup_steps = 60

[checkpoint]
every_steps = 200
keep_last = 2

[eval]
selection = "heldout.parquet"
every_epochs = 7
TOML
show cat demo.toml
show diptych train demo.toml
show diptych sql "SELECT run, state, step, samples, skipped FROM runs" --state state
show diptych plot demo --output loss.png

step "6. Evaluate on compositions never seen in training, compared with chance"
show diptych eval --model demo --dataset data --selection heldout_single.parquet --classes scenes/classes.txt --label-column label --templates scenes/templates.txt
show diptych eval --model demo --dataset data --selection heldout.parquet

step "7. Search by text; the contact sheet shows the results"
show diptych search "a red circle left of a blue square" --model demo --dataset data --selection heldout.parquet --sheet found.png

step "8. Export for OpenCLIP and for Hugging Face"
show diptych export demo --format openclip --output exported-openclip
show diptych export demo --format hf --output exported-hf
show ls -l exported-openclip exported-hf

step "Done. Look at $folder/loss.png and $folder/found.png"
