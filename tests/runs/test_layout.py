"""Names of stages are parsed into the parts that they were built from."""

import pytest

from rewardlab.runs import layout

STAGES = [
    (0, layout.TARGETS, None),
    (0, layout.HELD_OUT_REFERENCES, None),
    (1, layout.MEMBER, 2),
    (12, layout.BOOTSTRAPPED_REWARD, None),
    (12, layout.POST_TRAIN, None),
]


@pytest.mark.parametrize(("number", "stage", "member"), STAGES)
def test_a_stage_s_title_is_parsed_into_its_parts(number, stage, member):
    name = layout.stage_name(number, stage, member)
    title = layout.stage_title(name, "12345678" * 8)
    assert title == f"{name}-12345678"
    assert layout.parse_stage_name(layout.name_of_title(title)) == (number, stage, member)


@pytest.mark.parametrize("name", ["", "scores", "cost", "-", "1-"])
def test_a_name_without_a_round_is_its_own_stage(name):
    assert layout.parse_stage_name(name) == (None, name, None)
