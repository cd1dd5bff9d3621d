"""What ingestion has to know of a modality: how bytes become a sample, and which columns a shard has for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

Column = tuple[pa.DataType, dict[str, Any]]
"""Its Arrow type, and its feature in terms of the `datasets` library."""

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An encoded file as `datasets` keeps it."""
INT: Column = (pa.int32(), {"dtype": "int32", "_type": "Value"})
FLOAT: Column = (pa.float32(), {"dtype": "float32", "_type": "Value"})
TEXT: Column = (pa.string(), {"dtype": "string", "_type": "Value"})


@dataclass(frozen=True)
class Sample:
    """A usable sample: the hash of its decoded content, its values of the medium's columns, and what of it is counted."""

    identity: str
    columns: dict[str, Any]
    counted: dict[str, int] = field(default_factory=dict)


class Medium(Protocol):
    """One modality in the eyes of ingestion."""

    columns: dict[str, Column]
    """Those that a shard has besides sample_id, label, group and source; the first holds the content."""

    def read(self, data: bytes, extra: Mapping[str, Any]) -> Sample:
        """Raises BadSample with the reason where `data` is no usable sample; `extra` is the item's."""
        ...

    def summary(self, tallies: dict[str, Counter[int]]) -> dict[str, Any]:
        """What dataset.json says of the samples, from the tallies of what they counted."""
        ...


def median(counts: Counter[int]) -> int:
    """The (lower) median of counted values."""
    half, seen = (counts.total() + 1) // 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            return value
    raise ValueError("no values")


def ranges(tallies: dict[str, Counter[int]], *names: str) -> dict[str, list[int]]:
    """`min`, `median` and `max` of each counted number."""
    tallied = [tallies[name] for name in names]
    return {"min": [min(t) for t in tallied], "median": [median(t) for t in tallied], "max": [max(t) for t in tallied]}
