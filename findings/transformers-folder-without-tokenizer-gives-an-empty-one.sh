#!/usr/bin/env bash
# Finding: from a folder that holds a model's config and no tokenizer, AutoTokenizer makes one that
# cannot tell two texts apart.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3, Python 3.11, no torch; seen 2026-11-29.
#
# Expected: `model.save_pretrained(D)` writes no tokenizer. `AutoTokenizer.from_pretrained(D)` says
# so by an error, which names the files that are missing.
#
# Seen: for Llama and Mistral it is an error. For other models it is a tokenizer with the class's
# marks and no word, without a warning. "good morning" and "bad evening" become
#
#   BERT      5 tokens of 30522   [2, 1, 1, 3] and [2, 1, 1, 3]   (each word is [UNK])
#   RoBERTa   5 tokens of 50265   [2, 3] and [2, 3]
#   GPT-2     1 token of 50257    [] and []
#   GPT-NeoX  2 tokens of 50432   [] and []
#   Qwen2     1 token of 151936   [] and []
#
# So a reward that is loaded from such a folder gives every text the same score (BERT's, every text
# of as many words), and a model is trained on rows of marks.
#
# Exit status: 0 while this is so, 1 if the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings
from pathlib import Path

import transformers
from transformers import AutoTokenizer

messages = []
transformers.logging.set_verbosity_warning()
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
transformers.logging.add_handler(handler)


def ids_of_two_texts(kind):
    """Return the ids of two texts by the tokenizer of a folder that holds a config alone."""
    folder = Path(sys.argv[1]) / kind
    config = getattr(transformers, f"{kind}Config")()
    config.save_pretrained(folder)
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    messages.clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        print(kind, "is refused:", type(error).__name__)
        return None
    first = tokenizer("good morning").input_ids
    second = tokenizer("bad evening").input_ids
    print(kind, len(tokenizer), "of", config.vocab_size, first, second, messages, caught)
    return first, second, not messages and not caught


seen = {kind: ids_of_two_texts(kind) for kind in ("Bert", "Roberta", "GPT2", "GPTNeoX", "Qwen2")}
same_as_seen = seen == {
    "Bert": ([2, 1, 1, 3], [2, 1, 1, 3], True),
    "Roberta": ([2, 3], [2, 3], True),
    "GPT2": ([], [], True),
    "GPTNeoX": ([], [], True),
    "Qwen2": ([], [], True),
} and [ids_of_two_texts(kind) for kind in ("Llama", "Mistral")] == [None, None]
print("as seen" if same_as_seen else "changed")
sys.exit(0 if same_as_seen else 1)
PYTHON
