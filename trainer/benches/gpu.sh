#!/usr/bin/env bash
# Compares training steps on one machine with a GPU: Diptych, and OpenCLIP with and without
# torch.compile, in turns, for three models in bf16 (OpenCLIP: amp_bf16, which is autocast with fp32
# weights). Prints the times of the parts of Diptych's step first, then the ratios.
#
# Usage: trainer/benches/gpu.sh DIPTYCH [DEVICE [MODEL:BATCH …]]
#        DEVICE is cuda:0 by default. PYTHON names the Python with open_clip_torch 3.3.0 and torch
#        2.11, and OUT the folder for results. ROUNDS and STEPS set how much is measured, and WARMUP
#        the steps before.
# A model that OpenCLIP does not have (demo) is measured alone. `python3 trainer/setup/setup.py --cuda yes`
# fetches the libraries that Diptych needs.
set -euo pipefail

diptych=$(realpath "$1")
device=${2:-cuda:0}
models=("${@:3}")
[ ${#models[@]} -gt 0 ] || models=(ViT-B-32:256 ViT-B-16:128 ViT-L-14:64)
python=${PYTHON:-python3}
out=${OUT:-bench-gpu}
rounds=${ROUNDS:-3} steps=${STEPS:-20} warmup=${WARMUP:-5}
here=$(dirname "$(realpath "$0")")
threads=$(nproc)
mkdir -p "$out"

{
    date -u
    "$diptych" --version
    "$python" -c 'import open_clip, torch; print("open_clip", open_clip.__version__, "torch", torch.__version__)'
    case $device in cuda*) nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv ;; *) lscpu | grep 'Model name' ;; esac
    uptime
} 2>&1 | tee "$out/machine.txt"

for model_and_batch in "${models[@]}"; do
    model=${model_and_batch%:*} batch=${model_and_batch#*:}
    echo
    "$diptych" bench train "$model" --batch-size "$batch" --precision bf16 --device "$device" --threads "$threads" \
        --steps "$steps" --warmup "$warmup" --json "$out/$model.json" 2>&1 | tee "$out/$model.txt"
    if ! "$python" -c 'import open_clip, sys; sys.exit(open_clip.get_model_config(sys.argv[1]) is None)' "$model"; then
        echo "OpenCLIP has no $model: nothing to compare" | tee -a "$out/$model.txt"
        continue
    fi
    for compile in "" --compile; do
        echo
        "$python" "$here/beside_openclip.py" "$diptych" --model "$model" --batch-size "$batch" --precision bf16 --device "$device" \
            --threads "$threads" --rounds "$rounds" --steps "$steps" --warmup "$warmup" $compile 2>&1 \
            | tee "$out/$model-beside${compile}.txt"
    done
done
