# Sourced by run.sh and killed.sh with DIPTYCH and FOLDER. Changes to the folder, copies the model's
# configuration there, ingests the emoji and makes both selections. Sets `here` (this folder) and
# `diptych`.
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
data=$(realpath "${DIPTYCH_TEST_DATA:-$here/../../../shared/data}")
diptych=$(realpath "$1")
mkdir -p "$2"
cd "$2"
cp "$here/model.json" .
"$diptych" ingest "$data/emoji_train.tar" --dataset train
"$diptych" ingest "$data/emoji_test.tar" --dataset test
"$diptych" select "SELECT uid FROM meta" --dataset train --output train.parquet
"$diptych" select "SELECT uid FROM meta" --dataset test --output test.parquet
