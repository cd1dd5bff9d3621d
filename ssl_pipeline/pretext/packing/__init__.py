"""A dataset's rows as the arrays that a kind of encoder is trained on: one file a modality.

`write(tree, folder, settings)` packs a whole dataset; `packer(settings, facts)` gives what packs a row of a shard by itself, as
the encoder's own data were packed.
"""
