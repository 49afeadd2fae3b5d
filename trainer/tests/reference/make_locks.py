"""Makes the reference values for locks: the parameters that open_clip's own locks leave trainable.

    python make_locks.py [FOLDER]        (default: ../data)

The test is in src/families/dual_encoder/tests.rs. locks.json holds for each model its configuration and
the sorted names of its parameters. For each number of unlocked groups of either tower (null: not locked)
it holds a digit for each name: 1 if requires_grad is true.
"""

import copy
import json
import sys
from pathlib import Path

import transformers
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from torch import nn

from make_models import OPENCLIP, SIGLIP_TRUNK, build

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "data")
LAYERS = 2
# open_clip names these parts for RoBERTa, which has the same structure, but not for BERT.
arch_dict["bert"]["config_names"] |= {key: arch_dict["roberta"]["config_names"][key] for key in ("layer_attr", "token_embeddings_attr")}


class WithBert(nn.Module):
    """Combines a text tower of transformers with an image tower of open_clip."""

    def __init__(self, config):
        super().__init__()
        whole = build(config)
        self.visual, self.logit_scale = whole.visual, whole.logit_scale
        bert = transformers.BertConfig(hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=24,
                                       vocab_size=48, max_position_embeddings=12)
        self.text = HFTextEncoder("bert", output_dim=12, config=bert, pooler_type="cls_pooler", proj_type="linear")
        self.text.transformer.pooler = None

    def lock_image_tower(self, unlocked_groups):
        self.visual.lock(unlocked_groups)

    def lock_text_tower(self, unlocked):
        # open_clip does not count the projection and never locks it, so it always learns.
        self.text.lock(unlocked - 1)


def learns(model, image, text):
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if image is not None:
        model.lock_image_tower(image)
    if text is not None:
        model.lock_text_tower(text)
    # In open_clip unlocking all groups also unlocks fixed sin-cos positions. Here they stay fixed.
    return "".join(str(int(parameter.requires_grad and name not in fixed)) for name, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0]))


if __name__ == "__main__":
    models = {}
    for name, config in OPENCLIP.items():
        config = copy.deepcopy(config)
        config["text_cfg"]["layers"] = LAYERS
        if name != "siglip":
            config["vision_cfg"]["layers"] = LAYERS
        ours = config | dict(vision_cfg=SIGLIP_TRUNK) if name == "siglip" else config
        models[name] = (ours, lambda config=config: build(config), 0)
    config = copy.deepcopy(OPENCLIP["end"])
    del config["init_logit_bias"]
    config["vision_cfg"]["layers"] = LAYERS
    ours = config | dict(text_cfg=dict(context_length=7, vocab_size=48, width=16, heads=2, layers=LAYERS, mlp_ratio=1.5,
                                       bert=dict(positions=12, token_types=2)), custom_text=True)
    models["bert"] = (ours, lambda: WithBert(config), 1)
    out = {}
    for name, (ours, make, least) in models.items():
        groups = LAYERS + (1 if ours["text_cfg"].get("proj_type") == "none" else 2)
        locks = [(None, None)] + [(k, None) for k in range(LAYERS + 3)] + [(None, k) for k in range(least, groups + 1)] + [(1, 2)]
        names = sorted(name for name, _ in make().named_parameters())
        out[name] = dict(config=ours, names=names, locks=[dict(image=i, text=t, learns=learns(make(), i, t)) for i, t in locks])
    (OUT / "locks.json").write_text(json.dumps(out, separators=(",", ":")).replace('{"image"', '\n{"image"') + "\n")
