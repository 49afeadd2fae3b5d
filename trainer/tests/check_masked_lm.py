"""Loads the exported masked language model of tests/families.rs with transformers.

Compares its logits and its loss with the reference values of tests/data/bert_mlm.

    DIPTYCH_EXPORTS=FOLDER cargo test --workspace --test families -- --ignored
    python check_masked_lm.py FOLDER      (needs torch==2.11.0 transformers safetensors)

Any difference ends with a nonzero exit code.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM


def check(what, found, expected):
    difference = (found - expected).abs().max().item()
    print(f"{what}: {difference:.2e}")
    # Logits of size 9 differ by 4e-6 between two machines.
    if not difference <= 1e-5:
        sys.exit(f"{what} differ")


def main(folder):
    torch.set_grad_enabled(False)
    io = load_file(Path(__file__).parent / "data/bert_mlm/bert_mlm_io.safetensors")
    model, info = AutoModelForMaskedLM.from_pretrained(Path(folder) / "bert_mlm", output_loading_info=True)
    assert type(model).__name__ == "BertForMaskedLM", type(model)
    assert not any(info[key] for key in ["missing_keys", "unexpected_keys", "mismatched_keys"]), info
    mask = io["in.attention_mask"]
    output = model.eval()(input_ids=io["in.input_ids"], attention_mask=mask, labels=io["in.labels"])
    check("logits", output.logits * mask.unsqueeze(-1), io["out.logits"])
    check("loss", output.loss, io["out.loss"][0])


main(sys.argv[1])
