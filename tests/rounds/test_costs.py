"""The cost of hardening beside plain RLHF."""

from rewardlab.rounds.costs import cost

TIMING = {
    "0-samples-aa": {"seconds": 100.0},  # judging: on neither side
    "0-references-aa": {"seconds": 1.0},
    "1-member-0-aa": {"seconds": 2.0},
    "1-member-1-aa": {"seconds": 2.0},
    "1-attack-aa": {"reused": True, "seconds_then": 4.0},
    "2-member-0-bb": {"seconds": 2.0},
    "2-member-1-bb": {"seconds": 2.0},
    "2-candidates-bb": {"seconds": 1.0},
    "2-post-train-bb": {"seconds": 7.0},
}


def test_one_fit_and_the_post_training_are_what_plain_rlhf_needs():
    """All: 1 + 2·2 + 4 + 2·2 + 1 + 7 = 21 s; plain: the first fit of one member, candidates and
    post-training, 10 s.
    """
    found = cost(
        TIMING,
        {
            "0-references": 10,
            "1-attack": 40,
            "2-candidates": 20,
            "2-post-train": 80,
            "2-samples": 99,
        },
        30,
    )
    assert found["seconds"] == {"all": 21.0, "plain": 10.0, "ratio": 2.1}
    assert found["generations"] == {"all": 150.0, "plain": 100.0, "ratio": 1.5}
    assert found["steps"] == 30


def test_unknown_seconds_are_not_guessed():
    assert cost(TIMING | {"1-attack-aa": {"reused": True}}, {}, 1)["seconds"]["ratio"] is None
