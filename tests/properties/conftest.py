"""How many examples a property is tried on: the same few in `make test`, many in `make nightly`."""

import os

from hypothesis import HealthCheck, settings

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
EXAMPLES = int(os.environ.get("REWARDLAB_EXAMPLES", "30"))
settings.register_profile(
    "rewardlab",
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=SLOW,
)
settings.load_profile("rewardlab")
