#!/usr/bin/env python3
"""Measures samples a second of the emoji recipe from tar to weights, in turns with OpenCLIP's own script.

    tests/emoji/speed.py DIPTYCH FOLDER [ROUNDS [EPOCHS]]      (data: DIPTYCH_TEST_DATA, or ../shared/data)

Both read, decode, crop and train the same pairs with the same model, a batch of 256, fp32, and as many
threads as cores. OpenCLIP uses one worker process in addition, which was its fastest setting here. The
time of a step runs from the end of the step before, including the wait for data. The first step of each
process is left out. Needs open_clip_torch 3.3.0 and webdataset in the Python that runs it.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
BATCH = 256
PAIRS = 2304

# The script accepts models only by name.
OPENCLIP = """
import sys
import open_clip
open_clip.add_model_config(sys.argv[1])
from open_clip_train.main import main
main(sys.argv[2:])
"""


def ours(diptych, folder, number, epochs):
    with open(os.path.join(HERE, "train.toml")) as file:
        text = file.read()
    name = f"speed-{number}"
    text = text.replace('name = "emoji"', f'name = "{name}"').replace("epochs = 30", f"epochs = {epochs}", 1)
    text = text[: text.index("[eval]")].replace("every_epochs = 5", "every_epochs = 0")
    path = os.path.join(folder, f"{name}.toml")
    with open(path, "w") as file:
        file.write(text.replace("[train]\n", f"[train]\nthreads = {os.cpu_count()}\n"))
    subprocess.run([diptych, "train", path, "--no-progress"], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sql = f"SELECT value FROM metrics WHERE run = '{name}' AND name = 'samples_per_second' ORDER BY step"
    rows = subprocess.run([diptych, "sql", sql, "--state", "state", "--format", "csv"], cwd=folder, check=True, capture_output=True, text=True)
    return [BATCH / float(row) for row in rows.stdout.split()[1:]]


def theirs(folder, data, number, epochs):
    command = [sys.executable, "-c", OPENCLIP, os.path.join(folder, "emoji_model.json")]
    command += ["--model", "emoji_model", "--train-data", os.path.join(data, "emoji_train.tar"), "--dataset-type", "webdataset"]
    command += ["--train-num-samples", str(PAIRS), "--batch-size", str(BATCH), "--epochs", str(epochs), "--lr", "1e-3", "--warmup", "20"]
    command += ["--workers", "1", "--precision", "fp32", "--device", "cpu", "--log-every-n-steps", "1", "--save-frequency", "0"]
    command += ["--logs", folder, "--name", f"openclip-{number}-{time.time():.0f}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stdout + ran.stderr)
    return [float(seconds) for seconds in re.findall(r"Batch \(t\): ([0-9.]+)", ran.stdout + ran.stderr)]


def main(diptych, folder, rounds=3, epochs=3):
    diptych, folder = os.path.realpath(diptych), os.path.realpath(folder)
    data = os.path.realpath(os.environ.get("DIPTYCH_TEST_DATA", os.path.join(HERE, "../../../shared/data")))
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(HERE, "model.json")) as file:
        model = json.load(file)
    for name in ("model.json", "emoji_model.json"):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(model, file)
    if not os.path.exists(os.path.join(folder, "train.parquet")):
        subprocess.run([diptych, "ingest", os.path.join(data, "emoji_train.tar"), "--dataset", "train"], cwd=folder, check=True)
        subprocess.run([diptych, "select", "SELECT uid FROM meta", "--dataset", "train", "--output", "train.parquet"], cwd=folder, check=True)
    found = {"diptych": [], "openclip": []}
    for number in range(int(rounds)):
        sides = {"diptych": lambda: ours(diptych, folder, number, epochs), "openclip": lambda: theirs(folder, data, number, epochs)}
        for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
            steps = sides[side]()[1:]
            rate = BATCH * len(steps) / sum(steps)
            found[side].append(rate)
            print(f"round {number + 1}, {side}: {rate:.1f} samples/s over {len(steps)} steps, load {os.getloadavg()[0]:.1f}", flush=True)
    middle = {side: statistics.median(rates) for side, rates in found.items()}
    for side, rates in found.items():
        print(f"{side}: {middle[side]:.1f} samples/s ({min(rates):.1f} to {max(rates):.1f})")
    print(f"diptych over openclip: {middle['diptych'] / middle['openclip']:.2f}")


main(*sys.argv[1:])
