"""Adapters: another name for `rewardlab.exchange`, as other libraries call such a place."""
