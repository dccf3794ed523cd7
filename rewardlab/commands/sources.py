"""What the flags of `attack` and `curve` name: prompts, a policy, rewards and a run folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rewardlab.commands.flags import config_of, is_url
from rewardlab.commands.logs import set_up_logs
from rewardlab.conversations import Prompt
from rewardlab.data import read_prompts
from rewardlab.errors import InputError
from rewardlab.mining import candidates
from rewardlab.networks.text_format import FormatsTexts
from rewardlab.policies import Generator, load_policy
from rewardlab.policies.abilities import LengthLimited
from rewardlab.provenance import fingerprint
from rewardlab.rewards import Reward, load_reward
from rewardlab.rewards.scoring import judged_by
from rewardlab.runs.folder import RunFolder
from rewardlab.storage.prompts import placed_prompts
from rewardlab.types import Samples

Config = dict[str, Any]


def distinct_prompts(
    file: str, held_out: str | None = None, allow_leak: bool = False
) -> list[Prompt]:
    """Return the distinct prompts of a file, in order.

    Raises:
        InputError: if the file cannot be read, or prompts are also in the file `held_out`, unless
            `allow_leak`.
    """
    prompts = list(dict.fromkeys(read_prompts(file)))
    held_out_prompts = set(read_prompts(held_out)) if held_out else set()
    leaked = [prompt for prompt in prompts if prompt in held_out_prompts]
    if leaked and not allow_leak:
        raise InputError(
            f"{len(leaked)} of {len(prompts)} prompts in {file} are also in {held_out}, such as "
            f"{str(leaked[0])[:60]!r}: what is found with them must not be evaluated there. Remove "
            "them, or give --allow-leak."
        )
    return prompts


def check_folder(command: str, flags: argparse.Namespace, prompts: Sequence[Prompt]) -> Config:
    """Return the run's config, unless its folder refuses it; write nothing.

    Raises:
        InputError: if the folder belongs to another config, or needs --resume.
    """
    config = {command: config_of(flags) | {"prompts_fingerprint": fingerprint(prompts)}}
    RunFolder.check(flags.out, config, flags.resume)
    return config


def open_folder(flags: argparse.Namespace, config: Config) -> RunFolder:
    """Make the run folder, or go on in it, and say on stderr what is finished from here on."""
    set_up_logs()
    return RunFolder.open(flags.out, config, flags.resume)


def source(location: str) -> str:
    """Return the fingerprint of a folder's files, or of a URL, whose server cannot be looked into.

    Raises:
        InputError: if it is neither a folder nor a URL.
    """
    if is_url(location):
        return fingerprint(location)
    if not Path(location).is_dir():
        raise InputError(
            f"{location} is not a folder. Give one that save_pretrained wrote, or for a reward an "
            "http(s):// URL."
        )
    return fingerprint(Path(location))


def open_reward(location: str, flags: argparse.Namespace) -> Reward:
    """Load a reward from a folder, ours or a published classifier's, or reach it by a URL."""
    if is_url(location):
        from rewardlab.rewards import RemoteReward

        query = flags.query
        if query is not None:
            query = query.replace("\\n", "\n").replace("\\t", "\t")
        return RemoteReward(
            location,
            query,
            flags.batch_size,
            key_variable=flags.key_variable,
            template=flags.query_template,
            dialect=flags.dialect or "openrlhf",
        )
    reward = load_reward(location, trust=flags.trust)
    if flags.chat is not None:
        _format(reward, flags.chat, location, "--chat")
    return reward.to(flags.device).eval()


def _format(model: nn.Module, chat: bool, location: str, flag: str) -> None:
    """Let all parts of a model that have a chat template use it, or not.

    Raises:
        InputError: if no part formats texts, or one should use a template and has none.
    """
    parts = [part for part in model.modules() if isinstance(part, FormatsTexts)]
    if not parts:
        raise InputError(
            f"{flag} says whether texts are formatted by a chat template, and "
            f"{type(model).__name__} in {location} uses none. Leave it out."
        )
    for part in parts:
        part.set_chat(chat)


def open_policy(flags: argparse.Namespace) -> Generator:
    """Load the policy, with the flags' limits.

    Raises:
        InputError: if it cannot be loaded, or a length limit does not suit it.
    """
    policy = load_policy(flags.policy, trust=flags.trust)
    name = "--policy-chat" if "policy_chat" in flags else "--chat"
    chat = flags.policy_chat if "policy_chat" in flags else flags.chat
    if chat is not None:
        _format(policy, chat, flags.policy, name)
    policy = policy.to(flags.device).eval()
    if flags.max_length is not None:
        _limit_length(policy, flags.max_length)
    if policy.micro_batch is None:
        policy.micro_batch = flags.batch_size
    return policy


def _limit_length(policy: Generator, max_length: int) -> None:
    """Let the policy write at most so many tokens.

    Raises:
        InputError: if it writes no tokens.
    """
    if not isinstance(policy, LengthLimited):
        raise InputError(
            f"--max-length limits the tokens of a response, and a {type(policy).__name__} writes "
            "none. Leave it out."
        )
    policy.max_new_tokens = max_length


def probe(
    policy: Generator, rewards: Sequence[Reward], prompts: Sequence[Prompt], file: str
) -> Samples:
    """Draw one output and score it, so that what does not fit is known before anything is written.

    Returns:
        The output.

    Raises:
        InputError: if policy and rewards do not fit together, or a prompt is too long for a policy
            of text; then the line of `file` is named.
    """
    check_prompts(policy, prompts, file)
    sample = candidates(policy, prompts[:1], 1, 0)
    for reward in rewards:
        judged_by(reward, reward.members, sample)
    return sample


def check_prompts(policy: Generator, prompts: Sequence[Prompt], file: str) -> None:
    """Let the policy read all prompts.

    Raises:
        InputError: naming the line of the first prompt that it refuses.
    """
    try:
        policy.check_prompts(prompts)
    except InputError:
        for prompt in prompts:
            _check_prompt(policy, prompt, file)
        raise


def _check_prompt(policy: Generator, prompt: Prompt, file: str) -> None:
    try:
        policy.check_prompts([prompt])
    except InputError as error:
        raise InputError(f"{file}, {place_of(file, prompt)}: {error}") from None


def place_of(file: str, prompt: Prompt) -> str:
    """Return where a file of prompts first holds this one, such as "line 2".

    Example:
        >>> path = getfixture("tmp_path") / "prompts.jsonl"
        >>> _ = path.write_text('\\n{"prompt": "a cat"}\\n')
        >>> place_of(str(path), "a cat")
        'line 2'
    """
    places = [placed.place for placed in placed_prompts(file) if placed.prompt == prompt]
    return places[0] if places else "no line"
