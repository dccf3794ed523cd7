#!/usr/bin/env bash
# Finding: with an adapter that starts as PiSSA or OLoRA, TRL's DPO compares with a model that is
# not the base, so margins are large before the first step.
#
# Versions: trl 1.16.0, peft 0.21.2, transformers 5.23.0, torch 2.15.0, Python 3.11;
# seen 2026-11-30.
#
# Expected: no ref_model and a peft_config: the reference is the model that training starts from,
# whatever init_lora_weights says. A new policy is the base, so at step 0 margins are 0 and the
# loss is log 2, 0.693.
#
# Seen: the reference is the model with the adapter off. PiSSA and OLoRA take their start out of
# the base weights, so what is left without the adapter is the base less a part of it. The policy
# is the base, as it should be; the reference is not. A tiny random model, learning rate 0, beta
# 0.1:
#
#   init_lora_weights    loss    margin   log p of the chosen answer: policy, reference
#   True, "gaussian"     0.693   0        -11.2, -11.2
#   "pissa"              0.091   2.35     -11.2, -19.9
#   "olora"              0.170   1.69     -11.2, -20.0
#
# precompute_ref_log_probs=True gives the same: it is computed after the adapter is put on. None
# of the messages and warnings of these runs speaks of it.
#
# So the loss pulls towards a model that nobody asked for, and accuracy is 1 here before any
# training. The weight of this pair in the gradient is 0.09 for PiSSA where it should be 0.5.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 trl==1.16.0 peft==0.21.2 \
  transformers==5.23.0 tokenizers==0.23.3 datasets==5.2.0 accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer

BETA = 0.1
folder = sys.argv[1]
start = f"{folder}/start"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
numbers = {letter: number for number, letter in enumerate(["<pad>", "</s>", *letters])}
by_bytes = Tokenizer(models.BPE(vocab=numbers, merges=[]))
by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
by_bytes.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=by_bytes, pad_token="<pad>", eos_token="</s>")
torch.manual_seed(0)
Qwen2ForCausalLM(
    Qwen2Config(
        vocab_size=len(numbers),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
        eos_token_id=1,
        pad_token_id=0,
    )
).save_pretrained(start)
pairs = Dataset.from_list([{"prompt": "2+2=", "chosen": "4", "rejected": "5 apples"}] * 2)


def first_step(init, precompute):
    """Return what DPO logs of its first step, at a learning rate of 0."""
    trainer = DPOTrainer(
        start,
        args=DPOConfig(
            output_dir=f"{folder}/out",
            max_steps=1,
            learning_rate=0.0,
            beta=BETA,
            per_device_train_batch_size=2,
            precompute_ref_log_probs=precompute,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=8,
            init_lora_weights=init,
            target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    trainer.train()
    log = next(row for row in trainer.state.log_history if "loss" in row)
    policy = log["logps/chosen"]
    seen = {
        "loss": log["loss"],
        "margin": log["rewards/margins"],
        "policy": policy,
        "reference": policy - log["rewards/chosen"] / BETA,
    }
    print(init, "precomputed" if precompute else "on the fly", seen)
    return {name: round(float(value), 2) for name, value in seen.items()}


messages = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: messages.append(record.getMessage())
for name in ("trl", "transformers", "peft"):
    logging.getLogger(name).addHandler(handler)
same_as_seen = True
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for precompute in (False, True):
        plain = first_step(True, precompute)
        same_as_seen &= plain == first_step("gaussian", precompute)
        same_as_seen &= (plain["loss"], plain["margin"]) == (0.69, 0)
        same_as_seen &= plain["policy"] == plain["reference"]
        for init in ("pissa", "olora"):
            seen = first_step(init, precompute)
            same_as_seen &= abs(seen["policy"] - plain["policy"]) < 0.1
            same_as_seen &= seen["reference"] < plain["reference"] - 5
            same_as_seen &= seen["loss"] < 0.3 and seen["margin"] > 1
texts = [*messages, *(str(warning.message) for warning in warned)]
told = [text for text in texts if any(word in text.lower() for word in ("pissa", "olora", "refer"))]
print("of", len(texts), "messages of the reference", told)
same_as_seen &= not told
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
