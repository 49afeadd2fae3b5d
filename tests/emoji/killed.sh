#!/usr/bin/env bash
# Trains the emoji recipe for 30 epochs with CLIP's and with SigLIP's loss. Kills each run five
# times (kill -9, at a random moment of each fifth of the run), and draws the loss curves:
# FOLDER/clip.png, FOLDER/siglip.png. With TWIN=1, trains each loss a second time undisturbed and
# compares the final weights byte for byte. LOSSES=siglip trains only that loss.
#
# Usage: tests/emoji/killed.sh DIPTYCH FOLDER      (data: DIPTYCH_TEST_DATA, or ../shared/data)
set -euo pipefail
read -ra losses <<< "${LOSSES:-clip siglip}"
kills=5
source "$(dirname "$(realpath "$0")")/prepare.sh" "$1" "$2"

# A state folder has one owner, so each run gets its own: one can be queried while the other trains.
config() { # LOSS NAME
    sed -e "s/^name = .*/name = \"$2\"/" -e "s/^state = .*/state = \"state-$2\"/" -e 's/^every_epochs = 5$/every_epochs = 1/' \
        -e 's/^keep_last = 0$/keep_last = 3/' "$here/train.toml"
    printf '[objective]\nloss = "%s"\n[metrics]\ntensorboard = true\n' "$1"
}

steps_done() { # NAME: read from the folders, which needs no lock
    local newest
    newest=$(find "state-$1/checkpoints/$1" -maxdepth 1 -name 'step-*' ! -name '*.incomplete' 2>/dev/null | sort | tail -1) || true
    if [ -n "$newest" ]; then echo $((10#${newest##*-})); else echo 0; fi
}

for loss in "${losses[@]}"; do
    config "$loss" "$loss" > "$loss.toml"
    total=$((30 * 9))
    for kill in $(seq 1 $kills); do
        # Let it run until this part of the run has a checkpoint, and for a random moment more.
        from=$((total * (kill - 1) / kills + 1 + RANDOM % (total / kills / 2)))
        "$diptych" train "$loss.toml" &
        pid=$!
        while [ "$(steps_done "$loss")" -lt "$from" ] && kill -0 $pid 2>/dev/null; do sleep 0.2; done
        sleep "0.$((RANDOM % 10))"
        if ! kill -9 $pid 2>/dev/null; then
            echo "$loss finished before kill $kill, so the run was killed too rarely to prove anything" >&2
            exit 1
        fi
        wait $pid 2>/dev/null || true
        echo "$loss: kill $kill of $kills, checkpoint of step $(steps_done "$loss") exists"
    done
    "$diptych" train "$loss.toml"
    "$diptych" plot "$loss" --state "state-$loss" --output "$loss.png"
    "$diptych" sql "SELECT step / 9 AS epoch, name, round(value, 3) AS value FROM metrics
        WHERE name IN ('heldout/i2t_recall@1', 'heldout/t2i_recall@1') AND step / 9 IN (5, 10, 25, 30) ORDER BY name, step" \
        --state "state-$loss"
    if [ "${TWIN:-0}" = 1 ]; then
        config "$loss" "$loss-twin" > "$loss-twin.toml"
        "$diptych" train "$loss-twin.toml"
        for file in model.safetensors optimizer.safetensors; do
            cmp "state-$loss/checkpoints/$loss/step-000000270/$file" "state-$loss-twin/checkpoints/$loss-twin/step-000000270/$file"
        done
        echo "$loss: killed five times, and still weights and moments bit-identical to the undisturbed run"
    fi
done
