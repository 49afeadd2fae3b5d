"""Writes curation.json: what DataComp's and MetaCLIP's own definitions give on made-up data, for tests/curation.rs.

    python3 -m venv venv && venv/bin/pip install numpy pandas pyahocorasick pillow opencv-python-headless
    venv/bin/python pipeline/tests/reference/make_curation_values.py > pipeline/tests/reference/curation.json

The filters are written as mlfoundations/datacomp has them in baselines/apply_filter.py, with pandas and numpy; the language,
which fastText recognises there, is part of the data. Matching and counting are those of facebookresearch/MetaCLIP
(metaclip/substr_matching.py, metaclip/balancing.py). Blur is OpenCV's, entropy Pillow's.
"""

import io
import json
import random

import ahocorasick
import cv2
import numpy as np
import pandas as pd
from PIL import Image

random.seed(5)
FRACTION = 0.3
TARGETS = [1, 4, 6]
CAPTIONS = [
    "", "abc", "abcde", "a b c", "a b cd", "a  b", "two words", "three short words", "   lead and trail   ",
    "tab\tand\nline breaks", "äöüéñ ß", "日本 の 猫", "no\u00a0break\u00a0space", "a\u2003b\u2003c", "a.b.c.d", "dog",
    "A photo of a dog, a cat and a hot dog.", "hot dog house", "Dog! dog? dog; dog: dog`", "emoji \U0001f600 here",
]


def rows():
    table = []
    for n in range(400):
        # Steps of 1/32, so that many are equal, and f32 as DataComp stores them.
        score = float(np.float32(random.randrange(0, 40) / 32 - 0.25))
        table.append(
            {
                "caption": random.choice(CAPTIONS) + ("" if n % 3 else f" number {n}"),
                "width": random.choice([1, 66, 67, 199, 200, 201, 300, 599, 600, 601, 1000]),
                "height": random.choice([1, 66, 199, 200, 201, 300, 599, 600, 601, 900]),
                "score": score,
                "language": random.choice(["en", "en", "en", "de", "ja"]),
                "cluster": random.randrange(8),
                "uid": f"{random.getrandbits(128):032x}",
            }
        )
    # A pair is its image and caption, and an image of the test is its size: no pair twice.
    seen, unique = set(), []
    for row in table:
        key = (row["caption"], row["width"], row["height"])
        if key not in seen:
            seen.add(key)
            unique.append(row)
    return unique


def places(mask):
    return [int(place) for place in np.flatnonzero(np.asarray(mask))]


def basic(df):
    words = df.caption.apply(lambda text: len(text.split()))
    characters = df.caption.apply(lambda text: len(text))
    shorter, longer = np.minimum(df.width, df.height), np.maximum(df.width, df.height)
    image = (shorter >= 200) & (longer / shorter <= 3.0)
    return (df.language == "en") & (words > 2) & (characters > 5) & image


def threshold(df, fraction):
    return -np.sort(-df["score"].values)[int(len(df) * fraction)]


def image_and_clip(df):
    # fasttext.tokenize splits at white space; on these captions as str.split does.
    words = df.caption.apply(lambda text: len(text.split()))
    characters = df.caption.apply(len)
    caption = (df.language == "en") & (words > 1) & (characters > 5)
    return (df["score"] >= threshold(df, FRACTION)) & caption & df.cluster.isin(TARGETS)


def uid_list(uids):
    array = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))
    array.sort()
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue().hex()


def spacing(text):
    spaced = f" {text} "
    for mark in [",", ".", ";", ":", "?", "!", "`"]:
        spaced = spaced.replace(mark, f" {mark} ")
    for white in ["\t", "\n", "\r"]:
        spaced = spaced.replace(white, " ")
    return spaced


def matches(entries, captions):
    automaton = ahocorasick.Automaton()
    for place, entry in enumerate(entries):
        automaton.add_word(f" {entry} ", place)
    automaton.make_automaton()
    return [sorted({entry for _, entry in automaton.iter(spacing(caption))}) for caption in captions]


def picture(width, height):
    """Pixel (x, y) of the test's images, RGB."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    channels = [(x * 7 + y * 13 + x * y) % 256, (x * x + 3 * y) % 256, (x // 5 * 31 + y // 7 * 17) % 256]
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


def blur(gray):
    edge = max(gray.size)
    if edge > 512:
        gray = gray.resize([max(1, side * 512 // edge) for side in gray.size], Image.BICUBIC)
    return float(cv2.Laplacian(np.asarray(gray), cv2.CV_64F).var())


def main():
    table = rows()
    df = pd.DataFrame(table)
    entries = ["dog", "hot dog", "dog house", "Dog", "a", "cat", "日本", "number", ",", "of a", "dog", "never", "words"]
    found = matches(entries, df.caption)
    counts = np.zeros(len(entries), dtype=np.uint64)
    for of_pair in found:
        for entry in of_pair:
            counts[entry] += 1
    file = io.BytesIO()
    np.save(file, counts)
    fractions = [0.0, 0.1, 0.3, 1 / 3, 0.5, 0.9, 0.999]
    grays = {size: picture(*size).convert("L") for size in [(64, 48), (512, 3), (700, 301), (90, 1024), (1, 9)]}
    out = {
        "rows": table,
        "targets": TARGETS,
        "thresholds": [[fraction, float(threshold(df, fraction))] for fraction in fractions],
        "basic": places(basic(df)),
        "clip_score": places(df["score"] >= threshold(df, FRACTION)),
        "image_and_clip": places(image_and_clip(df)),
        "uids_of_basic": uid_list(df.uid[basic(df)]),
        "entries": entries,
        "matches": found,
        "counts": counts.tolist(),
        "counts_npy": file.getvalue().hex(),
        "pictures": [[*size, gray.entropy(), blur(gray)] for size, gray in grays.items()],
    }
    print(json.dumps(out, ensure_ascii=False, separators=(",", ":")))


main()
