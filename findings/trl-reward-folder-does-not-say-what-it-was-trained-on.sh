#!/usr/bin/env bash
# Finding: RewardTrainer ends plain texts with EOS and conversations with what the template writes,
# and both leave the same folder to the byte.
#
# Versions: trl 1.16.0, transformers 5.23.0, torch 2.15.0, Python 3.11; seen 2026-11-29.
#
# Expected: a pair of conversations and the same pair as the text that the tokenizer's template
# makes of it become the same tokens. Where they do not, the saved folder says which form it was.
#
# Seen: a template that writes "user: …" and "assistant: …" lines and no EOS. The last tokens of the
# chosen answer "4":
#
#   as text           4  line end  </s>
#   as conversation   4  line end
#
# One step with a learning rate of 0 each: all files are equal, the weights, the tokenizer, the
# template, the config and training_args.bin. Yet the scores of the pair by these equal weights are
# -0.0009 and -0.0020 as text, -0.0778 and -0.0775 as conversation, so accuracy is 1 in the log of
# one run and 0 in the other's.
#
# So who loads the folder cannot know whether texts have to end with EOS, and a wrong guess moves
# all scores by more than the answers of a pair differ, without a message.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 trl==1.16.0 transformers==5.23.0 \
  tokenizers==0.23.3 datasets==5.2.0 accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)
from trl import RewardConfig, RewardTrainer

folder = Path(sys.argv[1])
start = str(folder / "start")
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
numbers = {letter: number for number, letter in enumerate(["<pad>", "</s>", *letters])}
by_bytes = Tokenizer(models.BPE(vocab=numbers, merges=[]))
by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
by_bytes.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=by_bytes, pad_token="<pad>", eos_token="</s>")
tokenizer.chat_template = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)
torch.manual_seed(0)
model = Qwen2ForSequenceClassification(
    Qwen2Config(
        vocab_size=len(numbers),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        num_labels=1,
    )
)
model.save_pretrained(start)
tokenizer.save_pretrained(start)


def conversation(answer):
    return [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": answer}]


def trained(name, pair):
    """Return the ids and scores of a pair, and the files of the folder, after a step of rate 0."""
    trainer = RewardTrainer(
        model=start,
        args=RewardConfig(
            output_dir=str(folder / "run"),
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            max_steps=1,
            learning_rate=0.0,
            save_strategy="no",
            logging_strategy="no",
        ),
        train_dataset=Dataset.from_list([pair]),
        processing_class=AutoTokenizer.from_pretrained(start),
    )
    row = trainer.train_dataset[0]
    trainer.train()
    trainer.save_model(str(folder / name))
    reward = trainer.model.eval()
    pairs_ids = [row["chosen_ids"], row["rejected_ids"]]
    with torch.no_grad():
        scores = [reward(torch.tensor([ids])).logits.item() for ids in pairs_ids]
    files = {file.name: file.read_bytes() for file in (folder / name).iterdir()}
    print(name, "ends with", tokenizer.convert_ids_to_tokens(row["chosen_ids"][-3:]), scores)
    return row["chosen_ids"], scores, files


messages = {"chosen": conversation("4"), "rejected": conversation("five")}
texts = {key: tokenizer.apply_chat_template(messages[key], tokenize=False) for key in messages}
text_ids, text_scores, text_files = trained("texts", texts)
message_ids, message_scores, message_files = trained("conversations", messages)
print("equal files", [name for name in text_files if text_files[name] == message_files[name]])
same_as_seen = (
    text_ids == [*message_ids, 1]
    and text_files == message_files
    and "model.safetensors" in text_files
    and text_scores[0] > text_scores[1]
    and message_scores[0] < message_scores[1]
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
