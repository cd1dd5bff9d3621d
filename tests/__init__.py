"""The package's tests, mirroring its tree."""
