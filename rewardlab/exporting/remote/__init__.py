"""Code that stands in an exported folder of images beside its weights; it needs no rewardlab."""
