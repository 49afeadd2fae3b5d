#!/usr/bin/env python3
"""Compares `diptych eval` with CLIP_benchmark's own functions on an exported model.

Compares zero-shot classification with one class and with several, and retrieval, on the emoji and on
the photographs. Each figure must agree to 1e-4.

    tests/emoji/same_figures.py DIPTYCH FOLDER MODEL [STATE]

The data is in DIPTYCH_TEST_DATA, or in ../shared/data. MODEL is an argument of `diptych eval --model`.
It is exported for open_clip, which loads it. Both sides read the same folders in CLIP_benchmark's
layout, which are made in FOLDER. There the emoji's transparency is replaced by white, as img2dataset
and Diptych do. Pillow, and so CLIP_benchmark, would drop it and see the colours behind it. Needs
open_clip_torch, clip_benchmark, webdataset, requests and a numpy below 2.3 in the Python that runs it.
"""

import collections
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy
import open_clip
import torch
from PIL import Image
from clip_benchmark.datasets.builder import build_dataset, image_captions_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

HERE = os.path.dirname(os.path.realpath(__file__))
TEMPLATES = ["a photo of a {c}", "a drawing of a {c}", "{c}", "this is a {c}."]
# Fewest images for a keyword of the emoji to be a class.
KEYWORD_IMAGES = 5
NAMES = {"acc1": "top1", "acc5": "top5", "mean_per_class_recall": "mean_per_class"}


def members(path):
    with tarfile.open(path) as tar:
        pairs = {}
        for member in tar:
            key, _, kind = member.name.rpartition(".")
            pairs.setdefault(key, {})[kind] = tar.extractfile(member).read()
    return pairs


def over_white(png):
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    out = io.BytesIO()
    Image.alpha_composite(white, image).convert("RGB").save(out, "PNG")
    return out.getvalue()


def marks(classes, of_pair):
    array = io.BytesIO()
    numpy.save(array, numpy.array([float(name in of_pair) for name in classes], dtype=numpy.float32))
    return array.getvalue()


def layout(folder, pairs, kind, classes_of=None):
    """Writes a folder in CLIP_benchmark's layout, with the classes of `classes_of` or with captions."""
    os.makedirs(os.path.join(folder, "test"), exist_ok=True)
    counts = collections.Counter(name for pair in pairs.values() for name in classes_of(pair)) if classes_of else {}
    classes = sorted(name for name, images in counts.items() if images >= (KEYWORD_IMAGES if kind == "multilabel" else 1))
    with tarfile.open(os.path.join(folder, "test", "0.tar"), "w") as tar:
        for key, pair in pairs.items():
            image = next(name for name in ("jpg", "png") if name in pair)
            content = over_white(pair[image]) if image == "png" else pair[image]
            label = {
                "classification": lambda: ("cls", str(classes.index(*classes_of(pair))).encode()),
                "multilabel": lambda: ("npy", marks(classes, classes_of(pair))),
                "retrieval": lambda: ("txt", pair["txt"]),
            }[kind]()
            for ending, content in ((image, content), label):
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    texts = {"dataset_type.txt": kind, "test/nshards.txt": "1"}
    if classes:
        texts |= {"classnames.txt": "\n".join(classes), "zeroshot_classification_templates.txt": "\n".join(TEMPLATES)}
    for name, text in texts.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text + "\n")


def theirs(folder, model, transform, tokenizer):
    name = os.path.basename(folder)
    task = "zeroshot_retrieval" if name.endswith("pairs") else "zeroshot_classification"
    data = build_dataset(f"wds/{name}", root=folder, transform=transform, split="test", download=False, task=task)
    together = {} if task == "zeroshot_classification" else {"collation_fn": image_captions_collate_fn}
    loader = torch.utils.data.DataLoader(data.batched(64, **together), batch_size=None, num_workers=0)
    if task == "zeroshot_classification":
        return zeroshot_classification.evaluate(model, loader, tokenizer, data.classes, data.templates, "cpu", amp=False)
    return zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])


def ours(diptych, folder, model, state):
    report = f"{folder}.json"
    command = [diptych, "eval", "--model", model, "--state", state, "--benchmark", folder, "--strict-pairs", "--resamples", "0"]
    subprocess.run([*command, "--json", report], check=True, stdout=subprocess.DEVNULL)
    with open(report) as file:
        found = json.load(file)
    if "multi_label" in found:
        return {"mean_average_precision": found["multi_label"]["mean_average_precision"]}
    if "zero_shot" in found:
        return {name: found["zero_shot"][own] for name, own in NAMES.items()}
    sides = (("text", found["retrieval"]["image_to_text"]), ("image", found["retrieval"]["text_to_image"]))
    return {f"{side}_retrieval_recall@{k}": value for side, recall in sides for k, value in zip((1, 5, 10), recall)}


def main(diptych, folder, model, state="state"):
    diptych, folder, state = (os.path.realpath(path) for path in (diptych, folder, state))
    data = os.path.realpath(os.environ.get("DIPTYCH_TEST_DATA", os.path.join(HERE, "../../../shared/data")))
    os.makedirs(folder, exist_ok=True)
    emoji, photos = members(os.path.join(data, "emoji_test.tar")), members(os.path.join(data, "photos.tar"))
    fields = lambda pair: json.loads(pair["json"])  # noqa: E731
    layouts = (
        ("emoji-classes", emoji, "classification", lambda pair: [fields(pair)["category"]]),
        ("emoji-keywords", emoji, "multilabel", lambda pair: fields(pair)["keywords"]),
        ("emoji-pairs", emoji, "retrieval", None),
        ("photo-classes", photos, "classification", lambda pair: [fields(pair)["label"]]),
        ("photo-pairs", photos, "retrieval", None),
    )
    for name, *given in layouts:
        layout(os.path.join(folder, name), *given)
    exported = os.path.join(folder, "exported")
    if not os.path.exists(exported):
        subprocess.run([diptych, "export", model, "--state", state, "--format", "openclip", "--output", exported], check=True)
    loaded, _, transform = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    loaded.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{exported}")
    worst = 0.0
    for name, *_ in layouts:
        path = os.path.join(folder, name)
        expected, found = theirs(path, loaded, transform, tokenizer), ours(diptych, path, model, state)
        for figure, value in found.items():
            apart = abs(expected[figure] - value)
            worst = max(worst, apart)
            print(f"{name:14} {figure:26} CLIP_benchmark {expected[figure]:.4f}  diptych {value:.4f}  {'' if apart <= 1e-4 else 'DIFFERENT'}")
    print(f"largest difference {worst:.6f}")
    sys.exit(worst > 1e-4)


main(*sys.argv[1:])
