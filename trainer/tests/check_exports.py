"""Loads exported folders with OpenCLIP and transformers, and compares their features.

Run:  python check_exports.py OPENCLIP_FOLDER HF_FOLDER [IO.safetensors TOKENIZER.json]
      (needs torch==2.11.0 open_clip_torch==3.3.0 transformers safetensors pillow)

Both folders are exports of one model. With the reference files of data/parity, for which the model
must be tiny_quickgelu, features are also compared with the reference and tokens with OpenCLIP's.
Any difference ends with a nonzero exit code.
"""
import json
import sys

import numpy
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPProcessor


def check(what, difference, limit):
    print(f"{what}: {difference:.2e} (limit {limit:.0e})")
    if not difference <= limit:
        sys.exit(f"{what} differ")


def main(openclip_folder, hf_folder, io=None, texts=None):
    ours, _, transform = open_clip.create_model_and_transforms(f"local-dir:{openclip_folder}")
    hf, processor = CLIPModel.from_pretrained(hf_folder).eval(), CLIPProcessor.from_pretrained(hf_folder)
    ours.eval()
    size, length = ours.visual.image_size[0], ours.context_length

    torch.manual_seed(0)
    photo = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (size * 3, size * 2, 3), dtype=numpy.uint8))
    pixels = transform(photo).unsqueeze(0)
    check("pixels of both transforms", (processor(images=photo, return_tensors="pt")["pixel_values"] - pixels).abs().max().item(), 1e-5)

    captions = ["a photo of a cat", "two dogs, one red ball & a café", "it's 3.14 o'clock"]
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=length)(captions)
    theirs = processor(text=captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        image, text, scale = ours(pixels, tokens)
        out = hf(input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"], pixel_values=pixels)
    check("image features", (out.image_embeds - image).abs().max().item(), 1e-5)
    check("text features through each one's own tokenizer", (out.text_embeds - text).abs().max().item(), 1e-5)
    check("logit scales", abs(hf.logit_scale.exp().item() - scale.item()), 1e-4)

    if io is not None:
        reference = load_file(io)
        with torch.no_grad():
            image, text, _ = ours(reference["images"], reference["tokens"])
        check("image features and the reference's", (image - reference["image_features"]).abs().max().item(), 1e-5)
        check("text features and the reference's", (text - reference["text_features"]).abs().max().item(), 1e-5)
    if texts is not None:
        for row in json.load(open(texts)):
            found = processor.tokenizer(row["text"], truncation=True, max_length=len(row["ids"]))["input_ids"]
            if found != row["ids"][: len(found)] or any(row["ids"][len(found):]):
                # OpenCLIP unescapes HTML before it tokenizes, which no tokenizer.json can express.
                print(f"tokens of {row['text'][:40]!r} differ")
                if "&" not in row["text"]:
                    sys.exit("and there is no HTML in it")


main(*sys.argv[1:])
