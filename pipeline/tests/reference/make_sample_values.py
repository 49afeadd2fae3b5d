"""Reference values of resizing and of tokenizers, from open_clip, Pillow and transformers.

    python make_sample_values.py

Writes ../data/resized.rgb (see pixels/tests.rs for the order) and ../../sample/testdata/tokenizers.json.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from open_clip.tokenizer import canonicalize_text
from open_clip.transform import image_transform
from PIL import Image
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
    resized()
    tokenizers()
