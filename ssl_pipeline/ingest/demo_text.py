"""Real texts that travel inside the package gensim, read without importing it; movielens_titles come with the films' ratings.

    lee_news          300 stories of an Australian broadcaster, 2001 and 2002 (Lee, Pincombe, Welsh 2005), seven of them
                      twice; 60,000 words; no labels
    wikipedia_stems   250 encyclopedia articles in lower case, words cut to their stems, no punctuation; 331,000 words; no
                      labels
    newsgroups        200 posts, half from alt.atheism and half from sci.space (Lang 1995), which are the labels, without
                      the headers that name them; 58,000 words; an author's posts are a group

The posts are kept as a pickle, which is read as the text that it is: nothing in it is executed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickletools
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ssl_pipeline.ingest import demo_interactions
from ssl_pipeline.ingest.item import Item, Reading
from ssl_pipeline.part import PipelineError

PACKAGE = "gensim"
COUNTS = {"lee_news": 300, "wikipedia_stems": 250, "newsgroups": 200}
"""Documents of each."""
FILES = {
    "lee_news": "lee_background.cor", "wikipedia_stems": "head500.noblanks.cor", "newsgroups": "mini_newsgroup",
}  # fmt: skip
MAX_BYTES = 1 << 24
"""Of the unpacked file, which is a thirtieth of that."""


def read(name: str) -> Reading:
    """Raises PipelineError where the package is missing."""
    if name == "movielens_titles":
        return demo_interactions.movielens_titles()
    return Reading(items(name), total=COUNTS[name])


def items(name: str) -> Iterator[Item]:
    path = located(FILES[name])
    if name == "newsgroups":
        yield from posts(path)
        return
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            yield Item(f"{name}/{number:03d}.txt", partial(str.encode, line.rstrip("\n")))


def version(name: str) -> str:
    if name == "movielens_titles":
        return demo_interactions.version(name)
    located(FILES[name])
    return importlib.metadata.version(PACKAGE)


def located(file: str) -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / "test" / "test_data" / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise PipelineError(f"demo texts: package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}==4.4.0")
    return path


def posts(path: Path) -> Iterator[Item]:
    """Of a scikit-learn Bunch as a pickle of protocol 0, whose operations are lines of text: its unicode strings are the
    posts, its longest byte string the array of their file names."""
    data = zlib.decompressobj().decompress(path.read_bytes(), MAX_BYTES)
    said = [(operation.name, argument) for operation, argument, _ in pickletools.genops(data)]
    texts = [str(argument) for name, argument in said if name == "UNICODE"]
    names = max((str(argument) for name, argument in said if name == "STRING"), key=len)
    width = len(names) // len(texts)
    for i, text in enumerate(texts):
        label, number = names[i * width : (i + 1) * width].rstrip("\0").split("/")[-2:]
        headers, _, body = text.partition("\n\n")
        author = next((line[5:].strip() for line in headers.splitlines() if line.startswith("From:")), None)
        yield Item(f"newsgroups/{label}/{number}.txt", partial(str.encode, body), label, author)
