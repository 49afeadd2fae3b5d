#!/usr/bin/env bash
# Trains the emoji recipe with several seeds. Prints held-out retrieval after 5, 10 and 25 epochs,
# compared with OpenCLIP's.
#
# Usage: tests/emoji/run.sh DIPTYCH FOLDER [SEED…]      (data: DIPTYCH_TEST_DATA, or ../shared/data)
set -euo pipefail
source "$(dirname "$(realpath "$0")")/prepare.sh" "$1" "$2"
shift 2
if [ $# -gt 0 ]; then seeds=("$@"); else seeds=(0 1 2); fi
for seed in "${seeds[@]}"; do
    sed -e "s/^name = .*/name = \"emoji-$seed\"/" -e "s/^seed = .*/seed = $seed/" "$here/train.toml" > "emoji-$seed.toml"
    "$diptych" train "emoji-$seed.toml"
done
"$diptych" sql "SELECT name, step / 9 AS epoch, count(*) AS seeds, round(avg(value), 3) AS mean, round(min(value), 3) AS lowest, round(max(value), 3) AS highest
FROM metrics WHERE name IN ('heldout/i2t_recall@1', 'heldout/i2t_recall@5') GROUP BY name, step ORDER BY name, step" --state state
echo "OpenCLIP, one seed: R@1 0.195, 0.469, 0.555 and R@5 0.457, 0.656, 0.640 after 5, 10, 25 epochs; chance 0.004 and 0.020"
