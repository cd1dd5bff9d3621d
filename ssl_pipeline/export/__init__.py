"""The deployable form of an encoder (`deployed.py`), and the forms that other runtimes open, a file each (`export.py`)."""
