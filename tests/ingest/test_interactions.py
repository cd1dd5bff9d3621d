"""Tables of interactions: the protocol against a plain loop, and every kind of bad row."""

from __future__ import annotations

import json
from collections import Counter
from io import BytesIO

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from ssl_pipeline.ingest import demo_interactions
from ssl_pipeline.ingest.interactions import write
from ssl_pipeline.ingest.item import SPLITS
from ssl_pipeline.ingest.source_interactions import InteractionsSource
from ssl_pipeline.part import PipelineError


def split(tree, name):
    return pd.read_parquet(tree / f"{name}-00000.parquet")


def history(tree, user):
    whole = pd.concat(split(tree, name) for name in SPLITS)
    return whole[whole["user"] == user]


def build(path, tree, **settings):
    return write(InteractionsSource.model_validate({"path": str(path)} | settings), tree)


@pytest.fixture
def events() -> pd.DataFrame:
    """Random interactions with repeats, ties and rare users and items, out of order."""
    random = np.random.default_rng(0)
    n = 3000
    return pd.DataFrame(
        {
            "user": [f"u{i}" for i in random.zipf(1.3, n) % 97],
            "item": random.zipf(1.3, n) % 61,
            "timestamp": random.integers(0, 400, n),
            "rating": random.integers(1, 6, n),
        }
    )


def by_loops(rows, k, min_rating=None):
    """The protocol, one interaction at a time: {user: [(item, time), ...]}"""
    rows = [row for row in rows if min_rating is None or row[3] >= min_rating]
    rows = sorted(rows, key=lambda row: row[2])  # stable
    seen, kept = set(), []
    for user, item, time, _ in rows:
        if (user, item) not in seen:
            seen.add((user, item))
            kept.append((user, item, time))
    while True:
        users, items = Counter(u for u, _, _ in kept), Counter(i for _, i, _ in kept)
        left = [row for row in kept if users[row[0]] >= max(k, 3) and items[row[1]] >= k]
        if len(left) == len(kept):
            break
        kept = left
    histories: dict = {}
    for user, item, time in kept:
        histories.setdefault(user, []).append((item, time))
    return histories


@pytest.mark.parametrize(("k", "min_rating"), [(5, None), (1, None), (4, 3.0)])
@pytest.mark.parametrize("kind", ["csv", "tsv", "inter", "parquet"])
def test_the_protocol_against_loops(kind, k, min_rating, events, tmp_path):
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":
        events.to_parquet(path)
    elif kind == "inter":
        types = {"user": "user:token", "item": "item:token", "timestamp": "timestamp:float", "rating": "rating:float"}
        events.rename(columns=types).to_csv(path, sep="\t", index=False)
    else:
        events.to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    summary = build(path, tmp_path / "tree", rating="rating", min_rating=min_rating, k_core=k)
    rows = [(u, str(i), t, r) for u, i, t, r in events.itertuples(index=False)]
    expected = by_loops(rows, k, min_rating)
    held = [split(tmp_path / "tree", name).set_index("user") for name in ("validation", "test")]
    for user, sequence in expected.items():
        found = history(tmp_path / "tree", user)
        assert list(zip(found["item"], found["timestamp"], strict=True)) == sequence
        assert [part.loc[user, "item"] for part in held] == [item for item, _ in sequence[-2:]]
    assert summary["samples"] == len(expected) == len(held[0]) == len(held[1])
    assert summary["interactions"] == sum(map(len, expected.values())) == sum(summary["splits"].values())
    items = {item for history in expected.values() for item, _ in history}
    assert summary["items"] == len(items)
    assert set(pd.read_parquet(tmp_path / "tree" / "items.parquet")["item"]) == items
    assert summary["density"] == pytest.approx(summary["interactions"] / (len(expected) * len(items)), abs=1e-6)
    known = {item for history in expected.values() for item, _ in history[:-2]}
    assert summary["cold"]["test"] == sum(history[-1][0] not in known for history in expected.values())
    assert json.loads((tmp_path / "tree" / "dataset.json").read_text())["modality"] == "interactions"


def test_bad_rows_go_to_quarantine_with_number_and_reason(tmp_path):
    good = [f"u{u},i{i},{10 * u + i},4" for u in range(6) for i in range(6)]
    bad = {
        ",i1,5,4": "no user",
        "u1,,5,4": "no item",
        "u1,i1,,4": "no timestamp",
        "u1,i1,soon,4": "unreadable timestamp",
        "u1,i1,inf,4": "unreadable timestamp",
        "u1,i1,5,good": "unreadable rating",
        "u1,i1": "malformed row",
        "u1,i1,999,4": "duplicate",
    }
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["user,item,timestamp,rating", *good[:9], *bad, *good[9:], "u2,i2,5,4,9,9"]))
    summary = write(
        InteractionsSource(path=str(path), rating="rating", k_core=3), tmp_path / "tree", max_quarantined=0.3
    )
    quarantine = pd.read_parquet(tmp_path / "tree" / "quarantine.parquet")
    expected = {f"row {10 + i}": reason for i, reason in enumerate(bad.values())} | {"row 45": "malformed row"}
    assert dict(zip(quarantine["source"], quarantine["reason"], strict=True)) == expected
    assert summary["reasons"] == dict(Counter(expected.values()).most_common())
    assert summary["quarantined"] == 9 and summary["quarantined_fraction"] == round(8 / 45, 6)
    assert summary["interactions"] == 36
    with pytest.raises(
        PipelineError, match=r"8 of 45 rows are unusable, more than max_quarantined 0.1 .*malformed row \(2\)"
    ):
        build(path, tmp_path / "again", rating="rating", k_core=3)


def test_of_repeats_the_earliest_is_kept_and_ties_stay_in_the_sources_order(tmp_path):
    rows = [("a", i, t) for i, t in (("x", 9), ("y", 5), ("z", 5), ("x", 3), ("w", 5), ("x", 3))]
    rows += [("b", i, 1) for i in "xyzw"]
    path = tmp_path / "table.csv"
    pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv(path, index=False)
    summary = build(path, tmp_path / "tree", k_core=2)
    whole = history(tmp_path / "tree", "a")
    assert whole["item"].tolist() == ["x", "y", "z", "w"] and whole["timestamp"].tolist() == [3, 5, 5, 5]
    assert pd.read_parquet(tmp_path / "tree" / "quarantine.parquet")["source"].tolist() == ["row 1", "row 6"]
    assert summary["tied"] == 7 / 8 and summary["reasons"] == {"duplicate": 2}


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-01", "2024-01-02T03:04:05", "2024-01-02T03:04:05+02:00"],
        pd.DatetimeIndex(["2024-01-01T00:00:00", "2024-01-02T03:04:05", "2024-01-02T01:04:05"]),
        [1704067200, 1704164645, 1704157445],
    ],
    ids=["text", "timestamps", "numbers"],
)
def test_times_are_numbers_or_dates(times, tmp_path):
    table = pd.DataFrame({"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": times})
    pd.concat([table.assign(user=f"u{i}") for i in range(3)]).to_parquet(tmp_path / "t.parquet")
    build(tmp_path / "t.parquet", tmp_path / "tree", k_core=1)
    found = history(tmp_path / "tree", "u0")
    assert found["timestamp"].tolist() == [1704067200.0, 1704157445.0, 1704164645.0]
    assert found["item"].tolist() == ["a", "c", "b"]


def test_items_carry_what_their_table_says(tmp_path):
    def png(side):
        file = BytesIO()
        Image.new("RGB", (side, side), "red").save(file, "PNG")
        return file.getvalue()

    (tmp_path / "red.png").write_bytes(png(8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "items.csv").write_text(
        'id,name,words,picture\n'
        'b,Bee,"two\nlines",red.png\n'
        'a,Aye,,broken.png\n'
        'b,Second,,\n'
        'c,"Sea, the",x,../outside.png\n'
        'unknown,U,u,u\n'
    )  # fmt: skip
    rows = [(f"u{u}", item, t) for u in range(4) for t, item in enumerate("abcd")]
    pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv(tmp_path / "t.csv", index=False)
    named = {"items": "items.csv", "item_id": "id", "title": "name", "text": "words", "image": "picture"}
    source = InteractionsSource.model_validate({"path": "t.csv", "k_core": 4} | named)
    summary = write(source, tmp_path / "tree", root=tmp_path)
    assert summary["described"] == {"title": 3, "text": 2, "image": 1}
    items = pq.read_table(tmp_path / "tree" / "items.parquet").to_pylist()
    assert [(row["item"], row["interactions"], row["title"], row["text"]) for row in items] == [
        ("a", 4, "Aye", None), ("b", 4, "Bee", "two\nlines"), ("c", 4, "Sea, the", "x"), ("d", 4, None, None)
    ]  # fmt: skip
    assert [row["image"] and row["image"]["bytes"] for row in items] == [None, png(8), None, None]
    # the tree's own table is a source of items again, with the pictures inside
    again = {"items": "tree/items.parquet", "title": "title", "image": "image"}
    source = InteractionsSource.model_validate({"path": "t.csv", "k_core": 4} | again)
    assert write(source, tmp_path / "again", root=tmp_path)["described"] == {"title": 3, "image": 1}


def test_a_source_that_cannot_be_used_is_refused_with_the_cure(tmp_path):
    def refusal(text, **settings):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(PipelineError) as error:
            build(tmp_path / "t.csv", tmp_path / "tree", **settings)
        return str(error.value)

    assert "has no column 'user'; did you mean 'users'? (columns: users, item)" in refusal("users,item\n1,2\n")
    assert "holds no rows" in refusal("user,item,timestamp\n")
    assert "has no column 'user' (columns: none)" in refusal("")
    assert "k_core 5 leaves none of 1 interactions: lower it" in refusal("user,item,timestamp\na,b,1\n")
    assert "is malformed" in refusal("user,item,timestamp\n" + "x" * (40 << 20) + ",b,1\n")
    with pytest.raises(PipelineError, match="there is no such table"):
        build(tmp_path / "absent.csv", tmp_path / "tree")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(PipelineError, match="is malformed"):
        build(tmp_path / "t.parquet", tmp_path / "tree")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"user": "item"}, "column 'item' is named for two purposes"),
        ({"min_rating": 4}, "min_rating 4 needs ratings: name their column in rating"),
        ({"title": "name"}, "title names a column of the items table: give its path in items"),
        ({"k_core": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, fault):
    with pytest.raises(ValidationError, match=fault):
        InteractionsSource.model_validate({"path": "t.csv"} | settings)


def test_movielens_is_what_the_literature_counts(tmp_path):
    summary = write(demo_interactions.movielens_100k(), tmp_path / "tree")
    assert (summary["samples"], summary["items"], summary["interactions"]) == (943, 1349, 99287)
    assert summary["splits"] == {"train": 97401, "validation": 943, "test": 943}
    assert summary["cold"] == {"validation": 0, "test": 0} and not summary["reasons"]
    titles = pd.read_parquet(tmp_path / "tree" / "items.parquet").set_index("item")
    assert (
        titles.loc["50", "title"] == "Star Wars" and titles.loc["50", "text"] == "Action Adventure Romance Sci-Fi War"
    )
    assert demo_interactions.version("movielens_100k") == "1.2.1"
