#!/usr/bin/env python3
"""Compares training steps of Diptych and of OpenCLIP on the same pairs in memory, in turns.

    trainer/benches/beside_openclip.py DIPTYCH [--model ViT-B-32] [--batch-size 32] [--threads 2]
        [--rounds 3] [--steps 3] [--warmup 1] [--device cpu] [--precision fp32] [--compile]
        [--only openclip]

Each round starts both programs again, in changing order. OpenCLIP's side is its own model, ClipLoss,
AdamW with its two groups of parameters and its clamp of the logit scale. Both sides use the same
number of threads, sleep while they wait (OMP_WAIT_POLICY=PASSIVE), copy the batch to the device in
each step, and do not clip gradients.

Prints medians over all steps, the lowest and highest, and ratios, by the clock and by processor
time. Processor time is meaningful on a busy machine too. Needs open_clip_torch 3.3.0 in the Python
that runs it.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

# OpenCLIP's defaults for ViT, which Diptych shares.
LR, BETAS, EPS, WEIGHT_DECAY = 5e-4, (0.9, 0.98), 1e-6, 0.2


def made_up(size, length, vocabulary, pairs):
    """Makes the batch of `diptych bench train`: pixels and tokens are Knuth's multiplicative hash of their place."""
    import numpy

    def hashed(count):
        return (numpy.arange(count, dtype=numpy.uint64) * 2654435761 & 0xFFFFFFFF).astype(numpy.uint32)

    images = (hashed(pairs * size * size * 3) >> 24).astype(numpy.uint8).reshape(pairs, size, size, 3)
    tokens = 1 + (hashed(pairs * length) >> 8) % (vocabulary - 1)
    return images, tokens.astype(numpy.int64).reshape(pairs, length)


def openclip(args):
    """Runs steps of OpenCLIP in this process and prints a list of {seconds, cpu_seconds, loss}."""
    import open_clip
    import torch

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    if cuda:
        # As in OpenCLIP's main.py.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = open_clip.create_model(args.model, device=device)
    model.train()
    config = open_clip.get_model_config(args.model)
    size, text = config["vision_cfg"]["image_size"], config["text_cfg"]
    images, tokens = made_up(size, text["context_length"], text["vocab_size"], args.batch_size)
    # Normalised before the clock starts, as by OpenCLIP's workers. Diptych's step normalises itself.
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    images = (torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(mean).div(std)).contiguous()
    tokens = torch.from_numpy(tokens)
    if cuda:
        images, tokens = images.pin_memory(), tokens.pin_memory()

    excluded = lambda name, p: p.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if excluded(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in named if not excluded(name, p)], "weight_decay": WEIGHT_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    loss_of = open_clip.ClipLoss()
    forward = torch.compile(model) if args.compile else model
    cast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.precision == "bf16")

    def step():
        on_device = images.to(device, non_blocking=True), tokens.to(device, non_blocking=True)
        optimizer.zero_grad()
        with cast:
            image_features, text_features, logit_scale = forward(*on_device)[:3]
            loss = loss_of(image_features, text_features, logit_scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        # OpenCLIP's trainer reads the loss only when it logs. Here each step ends with a wait for the
        # device, as Diptych's does.
        return loss.item()

    taken = []
    for number in range(args.warmup + args.steps):
        cpu, clock = time.process_time(), time.perf_counter()
        loss = step()
        if cuda:
            torch.cuda.synchronize()
        row = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu, "loss": loss}
        if number >= args.warmup:
            taken.append(row)
    print(json.dumps(taken))


def run_openclip(args, environment):
    command = [sys.executable, __file__, args.diptych, "--only", "openclip"]
    for name in ("model", "batch_size", "threads", "steps", "warmup", "device", "precision"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    command += ["--compile"] if args.compile else []
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def run_diptych(args, environment):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "report.json")
        command = [args.diptych, "bench", "train", args.model, "--no-parts", "--clip-grad-norm", "0", "--json", path]
        for name in ("batch_size", "threads", "steps", "warmup", "device", "precision"):
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path) as file:
            return json.load(file)["steps"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("diptych", help="the diptych binary")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile on OpenCLIP's side")
    parser.add_argument("--only", choices=["openclip"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        return openclip(args)

    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    runners = {"diptych": run_diptych, "openclip": run_openclip}
    taken = {name: [] for name in runners}
    for number in range(args.rounds):
        names = list(runners) if number % 2 == 0 else list(reversed(runners))
        for name in names:
            steps = runners[name](args, environment)
            taken[name] += steps
            middle = {key: statistics.median(step[key] for step in steps) for key in ("seconds", "cpu_seconds")}
            measured = f"{middle['seconds']:8.3f} s a step, {middle['cpu_seconds']:8.2f} s of processors"
            print(f"round {number + 1}: {name:<9}{measured}, load {os.getloadavg()[0]:.1f}", flush=True)

    print(f"\n{args.model}, batches of {args.batch_size}, {args.precision}, {args.device}, {args.threads} threads")
    print("median (lowest to highest)")
    for key, title in (("seconds", "seconds a step"), ("cpu_seconds", "processor seconds a step")):
        middle = {}
        for name, steps in taken.items():
            values = [step[key] for step in steps]
            middle[name] = statistics.median(values)
            print(f"{title:<26}{name:<9}{middle[name]:9.3f} ({min(values):.3f} to {max(values):.3f})")
        print(f"{title:<26}OpenCLIP over Diptych: {middle['openclip'] / middle['diptych']:.3f}")


if __name__ == "__main__":
    main()
