"""Makes the reference values of tests/parity.rs: small models of OpenCLIP, and their results.

    python make_parity.py [FOLDER]        (default: ../data/parity)

Made with open_clip_torch 3.3.0, transformers 5.24.0 and torch 2.12.1 on the CPU, float32. Writes

    tiny_gelu.json, tiny_quickgelu.json     configurations, which share one set of weights
    tiny_gelu.safetensors                   OpenCLIP's state dict
    tiny_*_io.safetensors                   images [8, 3, 8, 8], tokens [8, 12], unit features,
                                            logit_scale (after exp), clip_loss, siglip_loss (scale 10,
                                            bias -10), grad.NAME: gradients of the CLIP loss
                                            (grad.token_embedding.weight: the rows of tokens[0, :8])
    tiny_quickgelu_hf/                      tiny_quickgelu as a Hugging Face folder, with tokenizer.json
    train_trace.json, train_trace_inputs.safetensors, train_trace_final.safetensors
                                            ten AdamW steps of tiny_gelu: lr, loss, gradient norm before
                                            clipping and logit scale after the step, for each step;
                                            images [10, 4, 3, 8, 8] and tokens [4, 12]; the weights at
                                            the end
    tokenizer.json                          byte pairs of 100 tokens, the vocabulary of these models
"""

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip_train.scheduler import cosine_lr
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "data/parity")
VOCABULARY, LENGTH, END = 100, 12, 99
CONFIG = dict(
    embed_dim=16,
    vision_cfg=dict(image_size=8, layers=2, width=32, head_width=16, patch_size=4, mlp_ratio=1.5),
    text_cfg=dict(context_length=LENGTH, vocab_size=VOCABULARY, width=16, heads=2, layers=2, mlp_ratio=1.5))
GRADIENTS = ["logit_scale", "visual.conv1.weight", "token_embedding.weight", "text_projection", "visual.proj",
             "transformer.resblocks.1.attn.in_proj_weight", "visual.transformer.resblocks.1.mlp.c_fc.weight"]


def build(quick_gelu):
    torch.manual_seed(1)
    return open_clip.model.CLIP(**json.loads(json.dumps(CONFIG)), quick_gelu=quick_gelu)


def inputs(rows):
    """Makes images, and texts of several lengths: start, tokens, end, zeros."""
    tokens = torch.randint(1, END - 1, (rows, LENGTH))
    tokens[:, 0] = END - 1
    for row in range(rows):
        last = min(2 + row * 3 % LENGTH, LENGTH - 1)
        tokens[row, last] = END
        tokens[row, last + 1:] = 0
    return torch.randn(rows, 3, 8, 8), tokens


def save(name, tensors, **more):
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, OUT / name, **more)


def features(name, quick_gelu, images, tokens):
    config = CONFIG | dict(quick_gelu=quick_gelu)
    (OUT / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n")
    model = build(quick_gelu).train()
    image, text, scale = model(images, tokens)
    loss = ClipLoss()(image, text, scale)
    siglip = SigLipLoss()(image, text, torch.tensor(10.0), torch.tensor(-10.0))
    found = dict(images=images, tokens=tokens, image_features=image, text_features=text, logit_scale=scale.reshape(1),
                 clip_loss=loss.reshape(1), siglip_loss=siglip.reshape(1))
    loss.backward()
    for key, value in model.named_parameters():
        if key in GRADIENTS:
            found["grad." + key] = value.grad[tokens[0, :8]] if key == "token_embedding.weight" else value.grad
    save(f"{name}_io.safetensors", found)
    return model.state_dict(), found


def train_trace():
    """Trains with OpenCLIP's groups of parameters, betas, warm-up and cosine, and gradient clipping."""
    model = build(False).train()
    named = list(model.named_parameters())
    alone = [name for name, value in named if value.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name]
    groups = [dict(params=[value for name, value in named if (name in alone) == out], weight_decay=decay)
              for out, decay in [(True, 0.0), (False, 0.2)]]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    schedule = cosine_lr(optimizer, 1e-3, 4, 10)
    _, tokens = inputs(4)
    batches = torch.randn(10, 4, 3, 8, 8)
    trace = []
    for step, images in enumerate(batches):
        schedule(step)
        optimizer.zero_grad()
        loss = ClipLoss()(*model(images, tokens))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        trace.append(dict(step=step, lr=optimizer.param_groups[0]["lr"], loss=loss.item(), grad_norm=norm.item(),
                          logit_scale=model.logit_scale.exp().item()))
    save("train_trace_inputs.safetensors", dict(images=batches, tokens=tokens))
    save("train_trace_final.safetensors", model.state_dict())
    (OUT / "train_trace.json").write_text(json.dumps(trace, indent=1) + "\n")


def hugging_face_names(state):
    found = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
             "visual.ln_post": "vision_model.post_layernorm"}
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "attn.out_proj": "self_attn.out_proj"}
    for kind in ["weight", "bias"]:
        for ours, theirs in norms.items():
            found[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        for tower, blocks in [("text_model", "transformer"), ("vision_model", "visual.transformer")]:
            for layer in range(2):
                ours, theirs = f"{blocks}.resblocks.{layer}", f"{tower}.encoder.layers.{layer}"
                for part, name in parts.items():
                    found[f"{theirs}.{name}.{kind}"] = state[f"{ours}.{part}.{kind}"]
                for part, name in zip(state[f"{ours}.attn.in_proj_{kind}"].chunk(3), "qkv"):
                    found[f"{theirs}.self_attn.{name}_proj.{kind}"] = part
    return found


def hugging_face(state, io):
    v, t = CONFIG["vision_cfg"], CONFIG["text_cfg"]
    sizes = lambda cfg, heads: dict(
        hidden_size=cfg["width"], intermediate_size=int(cfg["width"] * cfg["mlp_ratio"]), num_hidden_layers=cfg["layers"],
        num_attention_heads=heads, hidden_act="quick_gelu", projection_dim=CONFIG["embed_dim"])
    model = CLIPModel(CLIPConfig(
        projection_dim=CONFIG["embed_dim"],
        text_config=sizes(t, t["heads"]) | dict(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, bos_token_id=END - 1,
                                                eos_token_id=END, pad_token_id=1),
        vision_config=sizes(v, v["width"] // v["head_width"]) | dict(image_size=v["image_size"], patch_size=v["patch_size"]))).eval()
    named = hugging_face_names(state)
    missing = model.load_state_dict(named, strict=False)
    assert not missing.unexpected_keys and all("position_ids" in key for key in missing.missing_keys), missing
    with torch.no_grad():
        found = model(input_ids=io["tokens"], pixel_values=io["images"])
    for ours, theirs in [("image_features", found.image_embeds), ("text_features", found.text_embeds)]:
        difference = (theirs - io[ours]).abs().max().item()
        print(f"{ours}: transformers and OpenCLIP differ by {difference:.1e}")
        assert difference < 1e-6
    folder = OUT / "tiny_quickgelu_hf"
    folder.mkdir(exist_ok=True)
    save("tiny_quickgelu_hf/model.safetensors", named, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text((OUT / "tokenizer.json").read_text())


def tokenizer():
    """Makes byte pairs as CLIP's: letters, letters that end a word, and merges. All else is 0."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    merges = ["t h", "th e</w>", "i n", "r e", "o f</w>", "a n", "an d</w>", "re d</w>", "a r", "c i", "l e</w>", "b l", "u e</w>",
              "bl ue</w>", "o n</w>", "s t", "st ar</w>", "o r", "l i", "g re", "e n</w>", "gre en</w>", "s q", "a l", "l l"]
    tokens = ["<unk>", *letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens = tokens[:END - 1] + ["<|startoftext|>", "<|endoftext|>"]
    known = set(tokens)
    merges = [merge for merge in merges if all(part in known for part in [*merge.split(), merge.replace(" ", "")])]
    assert len(known) == VOCABULARY, len(known)
    special = [dict(id=tokens.index(token), content=token, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
               for token in ["<|startoftext|>", "<|endoftext|>"]]
    content = dict(
        version="1.0", truncation=None, padding=None, added_tokens=special, normalizer=dict(type="Lowercase"),
        pre_tokenizer=dict(type="Whitespace"), post_processor=None, decoder=None,
        model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False,
                   byte_fallback=False, ignore_merges=False, vocab={token: at for at, token in enumerate(tokens)}, merges=merges))
    (OUT / "tokenizer.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    tokenizer()
    torch.manual_seed(2)
    images, tokens = inputs(8)
    state, _ = features("tiny_gelu", False, images, tokens)
    save("tiny_gelu.safetensors", state)
    same, io = features("tiny_quickgelu", True, images, tokens)
    assert all(torch.equal(value, same[key]) for key, value in state.items())
    hugging_face(state, io)
    train_trace()
