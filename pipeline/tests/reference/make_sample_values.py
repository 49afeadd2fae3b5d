"""Reference values of pictures and of tokenizers, from open_clip, Pillow, imagehash and transformers.

    python make_sample_values.py [PART…]      (resized, pictures, tokenizers, clip_tokens; default: all)

Writes ../data/resized.rgb (see pixels/tests.rs for the order), ../data/pictures/, ../../sample/testdata/tokenizers.json and
../../sample/testdata/clip_tokens.json. The pictures and CLIP's tokens were made with open_clip_torch 3.3.0, Pillow 13.0.0 and
ImageHash 4.3.2.
"""

import json
import sys
import tempfile
from pathlib import Path

import imagehash
import numpy as np
import open_clip
import torch
from open_clip.tokenizer import canonicalize_text
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from transformers import BertTokenizer

HERE = Path(__file__).parent
SIZE = 24


def picture(width, height):
    """Waves of many lengths with hard edges: the same formula is in pixels/tests.rs."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * x // (5 + c) + y * (3 + 2 * c) + (x * y // 16) % 7 * 20 for c in range(3)]
    return Image.fromarray((np.stack(channels, -1) % 256).astype(np.uint8))


def resized():
    values = b""
    for width, height in [(61, 37), (20, 90), (17, 13)]:
        for interpolation in ["bicubic", "bilinear"]:
            for mode in ["shortest", "squash", "longest"]:
                transform = image_transform(SIZE, False, resize_mode=mode, interpolation=interpolation, fill_color=90)
                # Without tensors: the last two steps only change the kind of number.
                image = picture(width, height)
                for step in transform.transforms[:-2]:
                    image = step(image)
                values += np.asarray(image).tobytes()
    out = HERE.parent / "data"
    out.mkdir(exist_ok=True)
    (out / "resized.rgb").write_bytes(values)


def photograph(number, width, height):
    """Noise with the spectrum of photographs, amplitude 1/f, in colours that belong together; some of it too light or too dark."""
    random = np.random.default_rng(number)
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    amplitude = 1 / np.maximum(np.hypot(y, x), 1 / max(width, height))
    layers = [np.fft.ifft2(amplitude * np.fft.fft2(random.normal(size=(height, width)))).real for _ in range(3)]
    layers = [layer / layer.std() for layer in layers]
    light, warm, green = layers
    channels = [light + 0.4 * warm, light + 0.3 * green, light - 0.4 * warm]
    return Image.fromarray((np.stack(channels, -1) * 60 + 128).clip(0, 255).astype(np.uint8))


def pictures():
    """JPEGs of the kinds that photographs have, OpenCLIP's evaluation of each, a crop of each, and its perceptual hash."""
    folder = HERE.parent / "data/pictures"
    folder.mkdir(parents=True, exist_ok=True)
    size, pixels, hashes = 32, {}, {}
    kinds = [dict(quality=85, subsampling=2), dict(quality=92, subsampling=0), dict(quality=75, subsampling=1, progressive=True), dict(quality=80)]
    sizes = [(120, 90), (90, 120), (77, 51), (64, 200), (160, 40), (33, 47)]
    transform = image_transform(size, False)
    for number in range(12):
        kind = kinds[number % 4]
        made = photograph(number, *sizes[number % 6])
        name = f"{number:02}.jpg"
        (made.convert("L") if number % 4 == 3 else made).save(folder / name, "jpeg", **kind)
        image = Image.open(folder / name)
        evaluated = image
        for step in transform.transforms[:-2]:
            evaluated = step(evaluated)
        rgb = image.convert("RGB")
        (w, h) = rgb.size
        box = (w // 10, h // 8, w // 10 + int(w * 0.7), h // 8 + int(h * 0.8))
        cropped = rgb.crop(box).resize((size, size), Image.BICUBIC)
        pixels |= {f"eval.{name}": torch.from_numpy(np.array(evaluated)), f"crop.{name}": torch.from_numpy(np.array(cropped))}
        hashes[name] = str(imagehash.phash(rgb))
    save_file(pixels, folder / "pixels.safetensors")
    (folder / "phash.json").write_text(json.dumps(hashes, indent=0) + "\n")


def clip_tokens():
    texts = ["a photo of a tench", "two dogs, one red ball & a café", "A Diagram", "Grinning Face 😀", "  spaces\tand\nlines  ",
             "it's 3.14 o'clock", "a very long caption " * 30, "", "!!!", "naïve façade", "emoji 👩‍🚀 and 中文字符 mixed", "UPPER lower MiXeD",
             "a&amp;b &lt;tag&gt;", "don't can't we'll", "x" * 400, "Ünïcödé — “quotes” … and ½"]
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    rows = [dict(text=text, ids=tokenizer([text])[0].tolist()) for text in texts]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (HERE.parent.parent / "sample/testdata/clip_tokens.json").write_text(f"[{lines}]\n")


def tokenizers():
    texts = ["A photo_of  a CAT!", "  don't\tstop—it's «fine» (really)… ", "ÄÖÜ İstanbul\u2028x", "100% a/b\\c", "", "一只猫 and a Dog."]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "photo", "of", "_", "!", "dog", "and", ".", "一", "猫",
             "don", "'", "t", "aou", "##o", "play", "##ing", "[", "]", "sep"]
    captions = ["A photo of CATS!", "一只猫 and a Dog.", "playing playings", "ÄÖÜ", "a " * 30, "", "[SEP] a"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(vocab) + "\n")
        bert = BertTokenizer(str(Path(folder) / "vocab.txt"))
        ids = [bert(text, max_length=12, padding="max_length", truncation=True)["input_ids"] for text in captions[:-1]]
    values = dict(canonical=[[text, canonicalize_text(text)] for text in texts], vocab=vocab, bert=list(zip(captions, ids)))
    (HERE.parent.parent / "sample/testdata/tokenizers.json").write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    for part in [resized, pictures, tokenizers, clip_tokens]:
        if part.__name__ in sys.argv[1:] or len(sys.argv) == 1:
            part()
