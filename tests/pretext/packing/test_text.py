"""Documents become tokens: what is cut, what is kept, and the blocks that hold all of it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers

from ssl_pipeline.encoders.settings_text import TextEncoder
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.ingest.text import Texts
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing.text import write
from ssl_pipeline.pretext.packing.tokens import NAMES, special_in, train_tokenizer

STORY = "The quick brown fox jumps over the lazy dog; caf\u00e9 owners cheer. "
DOCUMENTS = {
    "train": [f"{STORY * (i % 5)}Story number {i} ends here." for i in range(60)] + ["x"],
    "validation": ["A fox.", "Owners of dogs cheer \U0001f98a loudly."],
    "test": ["Lazy."],
}


def target_of(number: int) -> str | None:
    """Every other document is one side of a pair."""
    return f"Storia {number}" if number % 2 else None


@pytest.fixture
def tree(tmp_path):
    path = tmp_path / "tree"
    path.mkdir()
    with Shards(path, Texts()) as shards:
        for split, texts in DOCUMENTS.items():
            for i, text in enumerate(texts):
                sample = Texts().read(text.encode(), {"target": target_of(i)})
                row = {"sample_id": sample.identity, "label": "ab"[i % 2], "group": None, "source": f"{split}/{i}"}
                shards.add(split, row | sample.columns)
    return path


@pytest.fixture
def packed(tree, tmp_path):
    def pack(**settings):
        folder = tmp_path / f"pack{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        facts = write(tree, folder, TextEncoder(**{"length": 16, "vocabulary": 400} | settings))
        return Pack(folder, facts)

    return pack


def test_samples_are_the_documents_first_tokens(packed):
    pack = packed()
    tokenizer = Tokenizer.from_str(pack.facts["tokenizer"])
    assert pack.facts["special"] == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert [tokenizer.id_to_token(i) for i in range(5)] == NAMES
    for split, texts in DOCUMENTS.items():
        tokens = pack.samples(split)["tokens"]
        assert tokens.dtype == np.uint16 and tokens.shape == (len(texts), 16)
        for row, text in zip(tokens, texts, strict=True):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            expected = [2, *ids[:14], 3]
            assert row.tolist() == expected + [0] * (16 - len(expected))
        index = pack.index(split)
        assert index["source"].tolist() == [f"{split}/{i}" for i in range(len(texts))]
        kept = pq.read_table(pack.path / f"{split}.text.parquet").to_pydict()
        assert kept == {"text": texts, "target": [target_of(i) for i in range(len(texts))]}


def test_blocks_hold_every_token_of_every_document_once(packed):
    pack = packed()
    tokenizer = Tokenizer.from_str(pack.facts["tokenizer"])
    for split, texts in DOCUMENTS.items():
        blocks = pack.training(split)["tokens"]
        assert blocks.dtype == np.uint16 and (blocks[:, 0] == 2).all() and (blocks != 0).all()
        stream = blocks[:, 1:].flatten().tolist()
        wanted = [[*tokenizer.encode(text, add_special_tokens=False).ids, 3] for text in texts]
        total = sum(map(len, wanted))
        assert len(stream) - total == -total % 15
        found, piece = [], []
        for token in stream[:total]:
            piece.append(token)
            if token == 3:
                found.append(piece)
                piece = []
        assert sorted(found) == sorted(wanted)
        assert len(texts) < 10 or found != wanted, "the order is the documents' own"
        assert stream[total:] == (stream * 16)[: -total % 15]
    assert {path.name.split(".")[-1] for path in pack.path.iterdir()} == {"npy", "parquet", "json"}


def test_what_was_counted(packed):
    facts = packed().facts
    tokenizer = Tokenizer.from_str(facts["tokenizer"])
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in DOCUMENTS["train"]]
    assert facts["tokens"]["train"] == sum(map(len, ids)) and facts["documents"]["train"] == 61
    assert facts["mean_tokens"]["train"] == pytest.approx(sum(map(len, ids)) / 61, abs=0.01)
    assert facts["cut"]["train"] == pytest.approx(sum(len(row) > 14 for row in ids) / 61)
    assert facts["unknown"] == {"train": 0, "validation": 0, "test": 0}
    counts = np.unique(np.concatenate(ids), return_counts=True)[1]
    assert facts["unigram_loss"]["train"] == pytest.approx(-np.mean(np.repeat(np.log(counts / counts.sum()), counts)))
    json.dumps(facts)


def test_the_tokenizer_learns_from_the_training_split_alone(packed, tree, monkeypatch):
    from ssl_pipeline.pretext.packing import text

    asked = []
    rows = text.rows
    monkeypatch.setattr(text, "rows", lambda tree, split, *a: asked.append(split) or rows(tree, split, *a))
    packed()
    assert asked == ["train", "train", "validation", "test"]


def test_bytes_that_no_training_text_has_are_known(packed):
    pack = packed()
    tokenizer = Tokenizer.from_str(pack.facts["tokenizer"])
    ids = tokenizer.encode("\u65e5\u672c \U0001f98a").ids
    assert 1 not in ids and tokenizer.decode(ids).strip() == "\u65e5\u672c \U0001f98a"


def test_case_white_space_and_composition():
    texts = ["The Fox\n\n ran  to caf\u00e9", "the fox"] * 5
    lower, cased = (train_tokenizer(iter(texts), 400, lowercase) for lowercase in (True, False))
    assert lower.encode("  THE\tfox ").ids == lower.encode("the fox").ids
    assert lower.encode("cafe\u0301").ids == lower.encode("caf\u00e9").ids
    assert cased.encode("THE fox").ids != cased.encode("the fox").ids
    assert cased.decode(cased.encode("The  Fox").ids).strip() == "The Fox"


def test_the_same_texts_give_the_same_tokenizer_in_any_process():
    from ssl_pipeline.ingest import demo_text

    try:
        demo_text.version("lee_news")
    except PipelineError as missing:
        pytest.skip(str(missing))
    code = """
from ssl_pipeline.ingest import demo_text
from ssl_pipeline.pretext.packing.tokens import train_tokenizer
print(train_tokenizer((item.load().decode() for item in demo_text.items("lee_news")), 3000).to_str())
"""
    found = {}
    exec(code, {"print": lambda said: found.update(here=said)})
    for threads in ("1", "3"):
        env = {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        assert there.strip() == found["here"]


def test_a_word_of_megabytes_does_not_stop_training():
    tokenizer = train_tokenizer(iter(["0123456789abcdef" * 200_000, "a fox ran"] * 3), 500)
    assert tokenizer.encode("a fox", add_special_tokens=False).tokens == ["\u0120a", "\u0120fox"]


def word_pieces(path, **special):
    vocabulary = {"<pad>": 7, "the": 0, "fox": 1, "##es": 2, "<unk>": 3, "<s>": 4, "</s>": 5, "<mask>": 6} | special
    tokenizer = Tokenizer(models.WordPiece({k: v for k, v in vocabulary.items() if v is not None}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path))
    return str(path)


def test_a_tokenizer_of_ones_own(packed, tmp_path):
    pack = packed(tokenizer=word_pieces(tmp_path / "mine.json"))
    assert (
        pack.facts["special"] == {"pad": 7, "unk": 3, "cls": 4, "sep": 5, "mask": 6} and pack.facts["vocabulary"] == 8
    )
    assert pack.samples("validation")["tokens"][0].tolist() == [4, 3, 1, 3, 5] + [7] * 11  # A fox .
    assert pack.facts["unknown"]["validation"] == pytest.approx(9 / 10)
    assert (pack.training("train")["tokens"] != 7).all()


def test_tokenizers_that_cannot_be_used(packed, tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    for path, message in [
        (tmp_path / "none.json", "cannot be read.*name a tokenizer.json or a transformers folder"),
        (tmp_path / "broken.json", "cannot be read"),
        (word_pieces(tmp_path / "maskless.json", **{"<mask>": None}), r"has no token \[MASK\] or <mask>"),
        (word_pieces(tmp_path / "big.json", **{f"w{i}": 8 + i for i in range(65_530)}), "65,535 are the most"),
    ]:
        with pytest.raises(PipelineError, match=message):
            packed(tokenizer=str(path))


def test_special_tokens_are_found_by_either_spelling():
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 3, "<pad>": 9, "[UNK]": 0, "<s>": 1, "[SEP]": 2, "<mask>": 4}))
    assert special_in(tokenizer) == (3, 0, 1, 2, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 100, "heads": 3}, "width 100 is not a multiple of heads 3: set heads to 2"),
        ({"architecture": "modernbert", "width": 9, "heads": 3}, "make width / heads even"),
        ({"vocabulary": 70_000}, "less than or equal to 65535"),
        (
            {"pretrained": "bert-folder", "layers": 2},
            "layers is decided by the pretrained model 'bert-folder': leave it out",
        ),
        ({"pretrained": True}, "pretrained"),
        ({"length": 4}, "greater than or equal to 8"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValidationError, match=message):
        TextEncoder(**settings)


def test_recipes_that_agree_on_the_tokens_share_a_pack():
    assert TextEncoder(layers=2).packing() == TextEncoder(width=128).packing()
    assert TextEncoder(length=64).packing() != TextEncoder().packing()


def test_settings_load_without_torch():
    code = "import sys; import ssl_pipeline.encoders.settings_text, ssl_pipeline.ingest.source_text; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
