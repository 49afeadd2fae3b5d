#!/usr/bin/env python3
"""Compares zero-shot classification of 50,000 × 512 embeddings over 1,000 classes with torch, in turns.

    trainer/benches/zero_shot.py BINARY [ROUNDS]
    (BINARY: cargo build --release -p diptych -p diptych-trainer --bench zero_shot; in release/deps)

Torch does what CLIP_benchmark does with existing embeddings: one product, the five best of each row,
and the softmax of the best.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import torch

THREADS = os.cpu_count()


def theirs():
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(50_000, 512), dim=-1)
    classes = torch.nn.functional.normalize(torch.randn(1_000, 512), dim=-1)
    labels = torch.arange(50_000) % 1_000
    began = time.time()
    scores = 100.0 * images @ classes.T
    best = scores.topk(5, dim=1).indices
    confidence = scores.softmax(dim=1).max(dim=1).values
    hits = best.eq(labels[:, None])
    float(hits[:, 0].float().mean()), float(hits.any(1).float().mean()), float(confidence.mean())
    return time.time() - began


def main(binary, rounds=5):
    torch.set_num_threads(THREADS)
    found = {"diptych": [], "torch": []}
    for number in range(int(rounds)):
        sides = {
            "diptych": lambda: json.loads(subprocess.run([binary, str(THREADS)], check=True, capture_output=True, text=True).stdout)["classify"],
            "torch": theirs,
        }
        for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
            found[side].append(sides[side]())
    for side, seconds in found.items():
        print(f"{side}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    ratio = statistics.median(found["diptych"]) / statistics.median(found["torch"])
    print(f"diptych over torch: {ratio:.2f}, load {os.getloadavg()[0]:.1f}")


main(*sys.argv[1:])
