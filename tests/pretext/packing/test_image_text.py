"""What the pack holds, read back through the tokenizer that lies beside it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from ssl_pipeline.ingest.images import decode, to_square
from ssl_pipeline.ingest.shards import rows
from ssl_pipeline.part import PipelineError
from ssl_pipeline.pretext.packing import image, image_text
from tests.captioned_squares import COUNTS, pack_of, settings_of, tree_of


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return pack_of(tmp_path_factory.mktemp("squares"))


def test_arrays_hold_pixels_and_captions_in_the_order_of_the_shards(pack):
    tokenizer = Tokenizer.from_file(str(pack.path / "tokenizer.json"))
    for split, count in COUNTS.items():
        arrays = pack.samples(split)
        assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
            "image": (np.uint8, (count, 3, 16, 16)), "tokens": (np.uint16, (count, 2, 16)), "count": (np.uint8, (count,))
        }  # fmt: skip
        kept = pq.read_table(pack.path / f"{split}.captions.parquet")["captions"].to_pylist()
        for number, row in enumerate(rows(pack.path.parent / "tree", split)):
            assert (arrays["image"][number] == to_square(decode(row["image"]["bytes"]), 16, 3)).all()
            assert arrays["count"][number] == len(row["captions"]) and kept[number] == row["captions"]
            for tokens, caption in zip(arrays["tokens"][number], row["captions"], strict=False):
                wanted = [2, *tokenizer.encode(caption, add_special_tokens=False).ids[:14], 3]
                assert tokens.tolist() == wanted + [0] * (16 - len(wanted))
            assert not arrays["tokens"][number, len(row["captions"]) :].any()
        assert pack.index(split)["source"].tolist() == [row["source"] for row in rows(pack.path.parent / "tree", split)]


def test_facts_are_json_and_say_what_the_encoder_needs(pack):
    assert json.loads(json.dumps(pack.facts)) == pack.facts
    assert pack.facts["channels"] == 3 and pack.facts["captions"] == 2
    assert Tokenizer.from_str(pack.facts["text"]["tokenizer"]).get_vocab_size() == pack.facts["text"]["vocabulary"]


def test_the_tokenizer_knows_the_training_captions_alone(pack, tmp_path):
    """A test split that speaks of other things changes no token."""
    tree = tree_of(tmp_path / "tree")
    table = pq.read_table(tree / "test-00000.parquet")
    other = pa.array([["zebra zebra"]] * len(table), pa.list_(pa.string()))
    pq.write_table(
        table.set_column(table.schema.get_field_index("captions"), "captions", other), tree / "test-00000.parquet"
    )
    (tmp_path / "pack").mkdir()
    image_text.write(tree, tmp_path / "pack", settings_of())
    assert (tmp_path / "pack" / "tokenizer.json").read_bytes() == (pack.path / "tokenizer.json").read_bytes()


def test_the_first_captions_are_kept_and_long_ones_are_cut(tmp_path):
    tree = tree_of(tmp_path / "tree")
    facts = image_text.write(tree, tmp_path, settings_of(captions=1, text={"length": 8, "width": 32, "heads": 2}))
    assert facts["captions"] == 1 and facts["cut"] > 0.9
    tokens = np.load(tmp_path / "test.tokens.npy")
    assert tokens.shape == (40, 1, 8) and (tokens[:, 0, 0] == 2).all()
    assert np.load(tmp_path / "test.count.npy").max() == 1


def test_a_full_disk_is_said_before_training(tmp_path, monkeypatch):
    tree = tree_of(tmp_path / "tree")
    monkeypatch.setattr(image, "SHARE_OF_DISK", 0)
    with pytest.raises(PipelineError, match=r"too little free disk.*image_size lower"):
        image_text.write(tree, tmp_path, settings_of())
