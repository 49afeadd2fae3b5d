"""Writes tests/data/torch: small files by torch.save with the same weights as safetensors, and files to refuse.

Run:  python make_torch_files.py FOLDER
      (needs torch==2.11.0 open_clip_torch==3.3.0 transformers safetensors)
"""
import json
import os
import pathlib
import shutil
import sys

import open_clip
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

MODEL = {
    "embed_dim": 4,
    "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 8, "head_width": 4, "layers": 1},
    "text_cfg": {"context_length": 6, "vocab_size": 16, "width": 8, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD),
              "interpolation": "bicubic", "resize_mode": "shortest"}


class Command:
    """Returns the command that unpickling would run."""

    def __reduce__(self):
        return os.system, ("touch a-pickle-was-run",)


def main(folder):
    folder = pathlib.Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=MODEL["embed_dim"], vision_cfg=MODEL["vision_cfg"], text_cfg=MODEL["text_cfg"])
    weights = model.state_dict()
    for name in ["openclip_bin", "openclip_safetensors", "hf_bin", "hf_safetensors"]:
        (folder / name).mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(MODEL, indent=1) + "\n")
    for name in ["openclip_bin", "openclip_safetensors"]:
        (folder / name / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}, indent=1) + "\n")
    torch.save(weights, folder / "openclip_bin" / "open_clip_pytorch_model.bin")
    save_file(weights, folder / "openclip_safetensors" / "open_clip_model.safetensors")

    # As OpenCLIP's training writes it under DistributedDataParallel, after one update.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    image, text, scale = model(torch.rand(2, 3, 8, 8), torch.randint(0, 16, (2, 6)))
    (scale * (image @ text.T)).sum().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    torch.save({"epoch": 7, "name": "run", "state_dict": {f"module.{name}": value for name, value in weights.items()},
                "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}, folder / "epoch_7.pt")

    for name, kind in [("half", torch.float16), ("bfloat16", torch.bfloat16)]:
        narrow = {key: value.to(kind) for key, value in weights.items()}
        torch.save(narrow, folder / f"{name}.bin")
        save_file(narrow, folder / f"{name}.safetensors")

    # Equal values as views: one transposed, one a slice of a larger storage, two of one storage.
    views = dict(weights)
    views["visual.proj"] = weights["visual.proj"].T.contiguous().T
    views["text_projection"] = torch.cat([torch.ones(3, 4), weights["text_projection"], torch.ones(2, 4)])[3:11]
    both = torch.stack([weights["ln_final.weight"], weights["ln_final.bias"]], 1)
    views["ln_final.weight"], views["ln_final.bias"] = both[:, 0], both[:, 1]
    assert all(torch.equal(views[name], weights[name]) for name in weights)
    torch.save(views, folder / "views.bin")

    config = CLIPConfig(
        projection_dim=4,
        text_config={"vocab_size": 16, "hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "max_position_embeddings": 6, "hidden_act": "gelu", "eos_token_id": 15, "bos_token_id": 14, "projection_dim": 4},
        vision_config={"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
                       "patch_size": 4, "hidden_act": "gelu", "projection_dim": 4})
    hf = CLIPModel(config)
    hf.save_pretrained(folder / "hf_safetensors")
    shutil.copy(folder / "hf_safetensors" / "config.json", folder / "hf_bin")
    # Old files also hold these buffers.
    old = dict(hf.state_dict(), **{"text_model.embeddings.position_ids": torch.arange(6).expand((1, -1))})
    torch.save(old, folder / "hf_bin" / "pytorch_model.bin")

    refused = folder / "refused"
    refused.mkdir()
    few = {name: weights[name] for name in ["visual.proj", "ln_final.weight", "ln_final.bias"]}
    torch.save({**few, "command": Command()}, refused / "command.bin")
    torch.save(few, refused / "before_1_6.bin", _use_new_zipfile_serialization=False)
    torch.save(few, refused / "protocol_4.bin", pickle_protocol=4)
    torch.save(torch.nn.Linear(2, 2), refused / "module.bin")
    torch.save({**few, "visual.proj": weights["visual.proj"].double()}, refused / "double.bin")
    torch.save({**few, "visual.proj": torch.zeros(1, 1).expand(8, 4)}, refused / "expanded.bin")
    torch.save({**few, "ln_final.bias": weights["ln_final.weight"]}, refused / "tied.bin")
    torch.save({**few, "extra": 1}, refused / "extra.bin")
    torch.save([weights["visual.proj"]], refused / "list.bin")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(refused / "torchscript.pt"))


main(*sys.argv[1:])
