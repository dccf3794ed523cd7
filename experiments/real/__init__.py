"""Pretrained networks of other people as parts of rewardlab, for `make demo-real`.

`files` finds weights and checks their hash. `faces` is the generator, `expression` the judge,
`towers` the two image towers, `detector` the face detector, `smiles` the world that configs name.
`words` holds the text half.
"""
