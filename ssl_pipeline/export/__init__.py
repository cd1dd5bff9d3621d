"""The deployable form of an encoder: what the registry holds and what a folder on disk holds (`deployed.py`)."""
