"""Loads the exports of tests/families.rs with open_clip and transformers, and compares features with tests/data.

    DIPTYCH_EXPORTS=FOLDER cargo test --workspace --test families -- --ignored
    python check_families.py FOLDER
    (needs torch==2.11.0 open_clip_torch==3.3.0 timm transformers safetensors)

Any difference ends with a nonzero exit code.
"""

import json
import sys
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

DATA = Path(__file__).parent / "data"


def check(what, found, expected):
    difference = (found - expected).abs().max().item()
    print(f"{what}: {difference:.2e}")
    if not difference <= 2e-6:
        sys.exit(f"{what} differ")


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def main(folder):
    torch.set_grad_enabled(False)
    for path in sorted(Path(folder).glob("openclip_*")):
        if path.name.endswith("_as_hf"):
            continue
        model = open_clip.create_model(f"local-dir:{path}").eval()
        said = json.loads((path / "open_clip_config.json").read_text())["preprocess_cfg"]
        found = model.visual.preprocess_cfg
        assert all(list(found[key]) == said[key] if isinstance(said[key], list) else found[key] == said[key] for key in said), found
        if not (DATA / f"{path.name}_io.safetensors").exists():
            print(f"{path.name}: loads, {sum(p.numel() for p in model.parameters())} parameters")
            continue
        io = load_file(DATA / f"{path.name}_io.safetensors")
        check(f"{path.name} images", model.encode_image(io["images"], normalize=True), io["image_features"])
        check(f"{path.name} texts", model.encode_text(io["tokens"], normalize=True), io["text_features"])
    for path in sorted(Path(folder).glob("*_as_hf")):
        name = path.name.removesuffix("_as_hf")
        model, info = AutoModel.from_pretrained(path, output_loading_info=True)
        assert not any(info[key] for key in ["missing_keys", "unexpected_keys", "mismatched_keys"]), info
        model.eval()
        processor = AutoImageProcessor.from_pretrained(path)
        print(f"{path.name}: {type(model).__name__}, {type(processor).__name__}, mean {processor.image_mean}, size {processor.size}")
        io = load_file(DATA / f"{name}_io.safetensors")
        mask = dict(attention_mask=(io["tokens"] != 0).long()) if "chinese" in name else {}
        check(f"{path.name} images", unit(model.get_image_features(pixel_values=io["images"]).pooler_output), io["image_features"])
        check(f"{path.name} texts", unit(model.get_text_features(input_ids=io["tokens"], **mask).pooler_output), io["text_features"])


main(sys.argv[1])
