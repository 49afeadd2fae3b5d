"""Makes the reference values of tests/families.rs and of the layout's test with open_clip, timm and transformers.

    python make_models.py [FOLDER]        (default: ../data)

Writes for each small random model its weights under its own names, its configuration, and inputs with
the features that the library computes from them. layouts.json holds, for every built-in model of
OpenCLIP, the number of parameters and the sha256 over names and shapes of its state dict, in its order.
"""

import hashlib
import json
import sys
from pathlib import Path

import open_clip
import timm
import torch
import transformers
from open_clip.factory import get_model_config
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from timm.models import register_model

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "data")
N, LENGTH, VOCABULARY = 3, 7, 48


@register_model
def vit_tiny_siglip(pretrained=False, **kwargs):
    """Makes a small trunk of SigLIP, built as timm's vit_base_patch16_siglip_224."""
    sizes = dict(img_size=20, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=1.6, class_token=False)
    return timm.models.vision_transformer.VisionTransformer(**sizes, global_pool=kwargs["global_pool"], num_classes=kwargs["num_classes"])


def text(**keys):
    return dict(context_length=LENGTH, vocab_size=VOCABULARY, width=16, heads=2, layers=1, mlp_ratio=1.5) | keys


def vision(**keys):
    return dict(image_size=16, patch_size=8, width=16, head_width=8, layers=1, mlp_ratio=1.5) | keys


TANH = {"approximate": "tanh"}
OPENCLIP = {
    "average": dict(
        embed_dim=12, custom_text=True,
        vision_cfg=vision(ls_init_value=0.1, pool_type="avg", final_ln_after_pool=True, no_ln_pre=True,
                          pos_embed_type="sin_cos_2d", patch_dropout=0.5, act_kwargs=TANH, norm_kwargs={"eps": 1e-3}),
        text_cfg=text(ls_init_value=0.1, pool_type="last", no_causal_mask=True, proj_bias=True,
                      norm_kwargs={"eps": 1e-6}, act_kwargs=TANH)),
    "coca": dict(
        embed_dim=12, custom_text=True, quick_gelu=True,
        vision_cfg=vision(attentional_pool=True, attn_pooler_queries=3, attn_pooler_heads=2),
        text_cfg=text(embed_cls=True, pad_id=0)),
    "pooler": dict(
        embed_dim=16,
        vision_cfg=vision(image_size=20, attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=4, pool_type="avg"),
        text_cfg=text(pool_type="first", proj_type="none", no_causal_mask=True)),
    "end": dict(
        embed_dim=12, init_logit_bias=-10,
        vision_cfg=vision(pool_type="avg"),
        text_cfg=text(pool_type="eos", eos_id=5, proj_bias=True)),
    "siglip": dict(
        embed_dim=16, init_logit_bias=-10, custom_text=True,
        vision_cfg=dict(timm_model_name="vit_tiny_siglip", timm_pool="map", timm_proj="none", image_size=20),
        text_cfg=text(pool_type="last", no_causal_mask=True, proj_bias=True, norm_kwargs={"eps": 1e-6})),
}
# Diptych's name for a trunk that has no name in timm.
SIGLIP_TRUNK = dict(trunk="siglip", image_size=20, patch_size=8, width=16, head_width=8, layers=2, mlp_ratio=1.6,
                    norm_kwargs={"eps": 1e-6})


def shake(model):
    """Replaces all initial values: a norm's ones and zeros would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def inputs(size):
    images = torch.randn(N, 3, size, size)
    tokens = torch.randint(6, VOCABULARY, (N, LENGTH))
    for row, end in enumerate([3, 5, LENGTH - 1]):
        tokens[row, end] = 5
        tokens[row, end + 1:] = 0
    tokens[0, 1] = VOCABULARY - 1
    return images, tokens


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def layout(state):
    lines = "".join(f"{name} {list(value.shape)}\n" for name, value in state.items())
    return dict(parameters=sum(value.numel() for value in state.values()), sha256=hashlib.sha256(lines.encode()).hexdigest())


def build(config):
    config = json.loads(json.dumps(config))
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    return kind(**config)


def save(name, config, state, io):
    (OUT / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({key: value.contiguous().clone() for key, value in state.items()}, OUT / f"{name}.safetensors")
    save_file({key: value.contiguous().clone() for key, value in io.items()}, OUT / f"{name}_io.safetensors")


def openclip_models(layouts):
    for name, config in OPENCLIP.items():
        model = shake(build(config))
        images, tokens = inputs(config["vision_cfg"]["image_size"])
        with torch.no_grad():
            io = dict(images=images, tokens=tokens, image_features=model.encode_image(images, normalize=True),
                      text_features=model.encode_text(tokens, normalize=True))
        ours = config | dict(vision_cfg=SIGLIP_TRUNK) if name == "siglip" else config
        save(f"openclip_{name}", ours, model.state_dict(), io)
        layouts[f"openclip_{name}"] = layout(model.state_dict())


def built_in(layouts):
    for name in open_clip.list_models():
        config = get_model_config(name)
        known = name.startswith("ViT-") and ("timm_model_name" not in config["vision_cfg"] or "SigLIP" in name)
        if known:
            with torch.device("meta"):
                model = build(config)
            layouts[name] = layout(model.state_dict())


def hugging_face_models():
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    siglip = transformers.SiglipModel(transformers.SiglipConfig(
        text_config=sizes | dict(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, bos_token_id=2, eos_token_id=5, pad_token_id=0),
        vision_config=sizes | dict(image_size=16, patch_size=8)))
    chinese = transformers.ChineseCLIPModel(transformers.ChineseCLIPConfig(
        text_config=sizes | dict(vocab_size=VOCABULARY, max_position_embeddings=12),
        vision_config=sizes | dict(image_size=16, patch_size=8), projection_dim=12))
    for name, model in [("hf_siglip", siglip), ("hf_chinese_clip", chinese)]:
        shake(model)
        images, tokens = inputs(16)
        masked = dict(attention_mask=(tokens != 0).long()) if model is chinese else {}
        with torch.no_grad():
            image = model.get_image_features(pixel_values=images).pooler_output
            texts = model.get_text_features(input_ids=tokens, **masked).pooler_output
        model.save_pretrained(OUT / name)
        (OUT / name / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LENGTH}) + "\n")
        save_file(dict(images=images, tokens=tokens, image_features=unit(image), text_features=unit(texts)),
                  OUT / f"{name}_io.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    layouts = {}
    openclip_models(layouts)
    built_in(layouts)
    hugging_face_models()
    (OUT / "layouts.json").write_text(json.dumps(layouts, indent=1) + "\n")
