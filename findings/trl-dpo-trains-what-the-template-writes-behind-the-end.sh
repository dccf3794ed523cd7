#!/usr/bin/env bash
# Finding: with a ChatML template TRL's DPO counts the line end behind the end token, which a policy
# never draws.
#
# Versions: trl 1.16.0, transformers 5.23.0, torch 2.15.0, Python 3.11; seen 2026-11-29.
#
# Expected: a completion ends with the token that ends a turn, `<|im_end|>`, which is the EOS of the
# tokenizer and where `generate` stops. The log-probability of an answer is that of what is drawn.
#
# Seen: ChatML writes a line end behind every `<|im_end|>`. DPOTrainer takes the completion from the
# whole rendered conversation, so its last token is that line end, with a completion mask of 1. For
# a tiny random model and the answer "4":
#
#   completion        4  <|im_end|>  line end
#   logps/chosen      -16.656, the sum of all three; up to <|im_end|> it is -11.011
#   32 draws          19 end within 256 tokens, all with <|im_end|> and nothing behind it
#
# So rewards, margins and the loss hold a term for a token that no rollout has, one for the chosen
# and one for the rejected answer, in different contexts. Figures differ from those of anything that
# scores drawn tokens, and of a short answer a good part is the line end. No message says so.
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

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer

folder = sys.argv[1]
END = "<|im_end|>"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
numbers = {letter: number for number, letter in enumerate(["<pad>", "<|im_start|>", END, *letters])}
by_bytes = Tokenizer(models.BPE(vocab=numbers, merges=[]))
by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
by_bytes.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=by_bytes,
    pad_token="<pad>",
    eos_token=END,
    additional_special_tokens=["<|im_start|>"],
)
tokenizer.chat_template = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
torch.manual_seed(0)
model = Qwen2ForCausalLM(
    Qwen2Config(
        vocab_size=len(numbers),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=numbers[END],
        pad_token_id=0,
    )
)
model.save_pretrained(folder + "/model")
tokenizer.save_pretrained(folder + "/model")
rows = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": "2+2?"}],
            "chosen": [{"role": "assistant", "content": "4"}],
            "rejected": [{"role": "assistant", "content": "five"}],
        }
    ]
)
trainer = DPOTrainer(
    model=folder + "/model",
    args=DPOConfig(
        output_dir=folder + "/run", use_cpu=True, bf16=False, report_to=[], disable_tqdm=True
    ),
    train_dataset=rows,
    eval_dataset=rows,
    processing_class=AutoTokenizer.from_pretrained(folder + "/model"),
)
row = trainer.train_dataset[0]
mask = trainer.data_collator([row])["completion_mask"]
logged = trainer.evaluate()["eval_logps/chosen"]

policy = trainer.model.eval()
prompt = torch.tensor([row["prompt_ids"]])
ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
with torch.no_grad():
    log_probs = policy(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
of_completion = log_probs[prompt.shape[1] - 1 :]
to_the_end = of_completion[:-1].sum().item()
drawn = policy.generate(
    prompt.repeat(32, 1), do_sample=True, top_k=0, max_new_tokens=256, pad_token_id=0
)[:, prompt.shape[1] :]
ends = drawn == numbers[END]
behind_the_end = drawn[ends.cumsum(1) - ends.int() > 0]
completion = tokenizer.decode(row["chosen_ids"])
print("completion", repr(completion), "masks", mask.sum(1).tolist())
print("logged", logged, "sum", of_completion.sum().item(), "to the end token", to_the_end)
print("draws that end", ends.any(1).sum().item(), "behind", behind_the_end.unique().tolist())
same_as_seen = (
    completion == "4<|im_end|>\n"
    and tokenizer.decode(row["rejected_ids"]) == "five<|im_end|>\n"
    and mask.sum(1).tolist() == [3, 6]
    and abs(logged - of_completion.sum().item()) < 1e-3
    and abs(logged - to_the_end) > 1
    and ends.any()
    and set(behind_the_end.tolist()) <= {0}
)
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
