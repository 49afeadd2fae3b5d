"""Compares the figures of `diptych eval` with CLIP_benchmark's functions on a model that OpenCLIP loads from our export.

Run:  diptych export --model M --format openclip --output OPENCLIP
      diptych eval --model M --benchmark FOLDER --output-format clip-benchmark --output RESULTS
      (one folder of each kind)
      python check_clip_benchmark.py OPENCLIP FOLDER RESULTS/…json
      (pip install clip-benchmark webdataset)

Images must be opaque: Diptych puts transparent pixels on white, while Pillow's convert("RGB") shows
the colour underneath. Any difference above 1e-4 ends with a nonzero exit code.
"""
import json
import sys

import numpy
import open_clip
import torch
from clip_benchmark.datasets.builder import build_wds_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval


def accuracy(output, target, topk=(1,)):
    """Computes CLIP_benchmark's function, which does not run with numpy 2.4."""
    found = output.topk(max(topk), 1, True, True)[1].t().eq(target.view(1, -1))
    return [found[:k].any(0).double().mean().item() for k in topk]


def main(openclip_folder, benchmark, results):
    zeroshot_classification.accuracy = accuracy
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{openclip_folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=model.context_length)
    dataset = build_wds_dataset("", transform, "test", benchmark)
    result = json.load(open(results))
    if result["task"] == "zeroshot_retrieval":
        loader = [(torch.stack(images), texts) for images, texts in batches(dataset)]
        found = zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    else:
        loader = Loader([(torch.stack(images), torch.tensor(labels)) for images, labels in batches(dataset)], dataset)
        found = zeroshot_classification.evaluate(
            model, loader, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False)
    worst = 0.0
    for name, theirs in found.items():
        ours = result["metrics"][name]
        print(f"{name}: ours {ours}, CLIP_benchmark {theirs}")
        if not (ours is None and numpy.isnan(theirs)):
            worst = max(worst, abs(ours - theirs))
    print(f"largest difference {worst:.1e}")
    if worst > 1e-4:
        sys.exit("they differ")


class Loader(list):
    def __init__(self, items, dataset):
        super().__init__(items)
        self.dataset = dataset


def batches(dataset, size=64):
    """Yields batches of up to 64 images and their targets."""
    items = list(dataset)
    for start in range(0, len(items), size):
        yield tuple(map(list, zip(*items[start:start + size])))


if __name__ == "__main__":
    main(*sys.argv[1:])
