"""A dataset's rows as the arrays that a kind of encoder is trained on: one file a modality."""
