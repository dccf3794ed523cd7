"""A reward behind a server, served again: scores stay, and one bad row spoils no other."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.testing import assert_close

from rewardlab.rewards import Ensemble, LanguageReward, Length
from rewardlab.rewards.remote import RemoteReward
from rewardlab.rewards.scoring import judged, scores_of
from rewardlab.testing.tiny_text import tiny_causal_lm, tiny_tokenizer
from rewardlab.types import Samples

HERE = Path(__file__).parent
SERVED = SimpleNamespace(**runpy.run_path(str(HERE / "served.py")))
serving = SERVED.serving
Refusing = runpy.run_path(str(HERE.with_name("refusing.py")))["Refusing"]
SAMPLES = Samples(["2+2?", "2+2?", "q"], ["4", "five", " "])


@pytest.mark.parametrize("dialect", ["openrlhf", "vllm"])
def test_a_relay_with_a_template_sends_what_it_got_with_one_template_around_it(dialect):
    tokenizer = tiny_tokenizer(chat=True)
    reward = LanguageReward(tiny_causal_lm(), tokenizer).eval()
    wanted = scores_of(reward, SAMPLES)
    with serving(reward) as behind:
        relay = RemoteReward(behind.url, template=tokenizer)
        with serving(relay) as server:
            client = RemoteReward(server.url, template=tokenizer, dialect=dialect)
            # a text without its prompt is not packed, which may move the last bits
            assert_close(scores_of(client, SAMPLES), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dialect", ["openrlhf", "vllm", "tei"])
@pytest.mark.parametrize("is_part", [False, True])
def test_a_row_that_is_refused_behind_a_relay_spoils_no_other(dialect, is_part):
    samples = Samples([""] * 3, ["one two", "refuse this", "three"])
    with serving(Refusing()) as behind:
        relay = RemoteReward(behind.url, dialect=dialect)
        with serving(Ensemble([relay, Length()]) if is_part else relay) as server:
            result = judged(RemoteReward(server.url, most_unscored=0.9), samples)
    assert result.scores[[0, 2]].tolist() == [2.0, 1.0]
    assert "it says refuse" in result.reasons[1]
