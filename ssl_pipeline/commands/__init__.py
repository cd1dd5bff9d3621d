"""Commands of `ssl-pipeline` by what they are about; `cli.py` puts them together."""
