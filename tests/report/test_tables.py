"""The comparison table and the model card: the right cells stand out, and no name can break the Markdown."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console

from ssl_pipeline.report.card import model_card
from ssl_pipeline.report.tables import Cell, comparison, count, duration, energy, escape, rows_of

HOSTILE = "a|b\n## c <script>alert(1)</script> ![x](http://x) `code` **bold** $math$ &amp; \\| ~~z~~ _u_ \x00\ud800"


def metrics(probe: str, *means: float, half: float = 0.01, shots=("10", "100", "all")) -> dict[str, dict[str, float]]:
    return {
        f"classification/{probe}/accuracy/{s}": {"mean": m, "low": m - half, "high": m + half}
        for s, m in zip(shots, means, strict=True)
    }


def digits() -> list:
    rows = rows_of("supervised", "", metrics("supervised", 0.70, 0.93, 0.98), baseline=True)
    rows += rows_of(
        "digits_simclr", "simclr", metrics("linear", 0.90, 0.95, 0.965) | metrics("knn", 0.94, 0.95, 0.96), 75, 1.6e5
    )
    rows += rows_of(
        "random encoder", "", metrics("linear", 0.47, 0.71, 0.80) | metrics("knn", 0.5, 0.6, 0.7), baseline=True
    )
    rows += rows_of(
        "raw pixels", "", metrics("linear", 0.725, 0.85, 0.90) | metrics("knn", 0.7, 0.8, 0.9), baseline=True
    )
    rows += rows_of(
        "digits_rotation", "rotation", metrics("linear", 0.74, 0.90, 0.93) | metrics("knn", 0.6, 0.7, 0.8), 80, 2e5
    )
    return rows


def terminal(table) -> list[str]:
    console = Console(width=100, record=True, file=io.StringIO(), color_system=None)
    console.print(table.rich())
    return [line.rstrip() for line in console.export_text().splitlines()]


def cells(markdown: str) -> dict[str, list[str]]:
    """First cell -> all cells, as a Markdown reader sees the lines of the table."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return {row[0]: row for row in ([c.strip() for c in line.strip("|").split("|")] for line in lines)}


def tokens(markdown: str) -> list:
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    return [t for block in parsed for t in [block, *(block.children or [])]]


def test_recipes_come_first_baselines_last_and_columns_go_from_few_labels_to_all():
    table = cells(comparison(digits()).markdown())
    assert [*table][2:] == ["digits_simclr", "digits_rotation", "random encoder", "raw pixels", "supervised"]
    assert table["recipe"][2:-2] == ["kNN, 10", "kNN, 100", "kNN, all", "linear, 10", "linear, 100", "linear, all"]


def test_best_is_bold_and_above_both_baselines_is_starred():
    table = cells(comparison(digits()).markdown())
    assert table["digits_simclr"][5] == "**90.0 ±1.0\\***"
    assert table["digits_rotation"][5] == "74.0 ±1.0"  # better than raw pixels, but the intervals touch
    assert table["digits_rotation"][6] == "90.0 ±1.0\\*"
    assert table["digits_rotation"][2] == "60.0 ±1.0"  # above the random encoder only
    assert table["supervised"][2:5] == ["–", "–", "–"]
    assert table["supervised"][7] == "**98.0 ±1.0**"
    assert table["digits_simclr"][7] == "96.5 ±1.0\\*"
    assert table["digits_simclr"][-2:] == ["75 s", "160k"]


def test_what_only_describes_a_list_has_no_best():
    values = {"hr_at_10": (0.2, 0.1), "coverage_at_10": (0.4, 0.9), "novelty_at_10": (0.7, 0.8)}
    rows = [
        row
        for place, name in enumerate(["ours", "random encoder"])
        for row in rows_of(
            name,
            "t",
            {
                f"recommendation/full/{m}/all": {"mean": v[place], "low": math.nan, "high": math.nan}
                for m, v in values.items()
            },
        )
    ]
    table = cells(comparison(rows).markdown())
    assert table["ours"][2:5] == ["**20.0**", "40.0", "70.0"]
    assert table["random encoder"][2:5] == ["10.0", "90.0", "80.0"]


def test_nothing_is_claimed_without_baselines_or_an_interval():
    rows = [row for row in digits() if row["name"] not in ("raw pixels", "random encoder")]
    assert "\\*" not in comparison(rows).markdown()
    rows = digits()
    rows[0]["shots"] = {}
    for row in rows:
        row["shots"] = {s: Cell(c.mean, math.nan, math.nan) for s, c in row["shots"].items()}
    assert "\\*" not in comparison(rows).markdown()
    assert "±" not in comparison(rows).markdown()


def test_an_uneven_interval_shows_its_larger_side_and_nan_a_dash():
    rows = rows_of("r", "t", {"classification/knn/accuracy/1": {"mean": 0.5, "low": 0.42, "high": 0.51}})
    assert "| **50.0 ±8.0** |" in comparison(rows).markdown()
    rows[0]["shots"]["1"] = Cell(math.nan, math.nan, math.nan)
    assert cells(comparison(rows).markdown())["r"][2] == "–"


def test_other_metrics_are_no_rows():
    assert rows_of("r", "t", {"features/rankme": {"mean": 1, "low": 1, "high": 1}}) == []


def test_the_demos_table_fits_a_terminal_in_one_piece():
    lines = terminal(comparison(digits(), "mean and range over 3 draws"))
    assert max(map(len, lines)) <= 100
    (line,) = [line for line in lines if line.startswith("digits_simclr")]
    shown = "94.0 ±1.0* 95.0 ±1.0* 96.0 ±1.0* 90.0 ±1.0* 95.0 ±1.0* 96.5 ±1.0* 75 s 160k"
    assert " ".join(line.split()) == f"digits_simclr {shown}"
    assert "mean and range over 3 draws" in lines
    assert any("intervals do not touch" in line for line in lines)


@pytest.mark.parametrize(("name", "shots"), [("r" * 60, 3), ("r", 20), ("r" * 60, 20), (HOSTILE, 3)])
def test_wide_tables_are_cut_into_several_and_lose_nothing(name, shots):
    counts = [str(2**i) for i in range(shots)]
    values = [0.5 + i / 1000 for i in range(shots)]
    rows = [
        r
        for n in (name, "raw pixels")
        for p in ("knn", "linear")
        for r in rows_of(n, "t", metrics(p, *values, shots=counts))
    ]
    lines = terminal(comparison(rows))
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "…" not in text or name == HOSTILE
    for value in values:
        assert text.count(f"{100 * value:.1f} ±1.0") == 4


def test_no_rows_make_an_empty_table():
    assert terminal(comparison([]))
    assert comparison([]).markdown().count("\n") == 2


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0 s"), (99, "99 s"), (150, "2.5 min"), (11160, "3.1 h"), (None, "–"), (math.nan, "–")]
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(950, "950"), (12_000, "12k"), (1.234e6, "1.23M"), (None, "–"), (999_900, "1000k")]
)
def test_counts(number, shown):
    assert count(number) == shown


@pytest.mark.parametrize(
    ("joules", "shown"),
    [(None, "–"), (math.nan, "–"), (36.0, "0.01 Wh"), (9000, "2.5 Wh"), (1.8e5, "50 Wh"), (4.5e6, "1.2 kWh")],
)
def test_energies(joules, shown):
    assert energy(joules) == shown


def test_energy_has_a_column_where_a_machine_counted_it_and_none_elsewhere():
    counted = rows_of("measured", "simclr", metrics("linear", 0.9, 0.9, 0.9), 75, 1.6e5, 9000)
    told = cells(comparison(digits() + counted).markdown())
    assert [told[name][-1] for name in ("recipe", "measured", "digits_simclr")] == ["energy", "2.5 Wh", "–"]
    assert "energy" not in comparison(digits()).markdown()
    assert max(map(len, terminal(comparison(digits() + counted)))) <= 100


def test_hostile_names_stay_text_in_markdown():
    rows = digits()
    for row in rows:
        if row["name"] == "digits_simclr":
            row["name"] = row["method"] = HOSTILE
    found = tokens(comparison(rows, "the caption").markdown())
    kinds = {t.type for t in found}
    assert not kinds & {
        "html_inline",
        "html_block",
        "link_open",
        "image",
        "code_inline",
        "heading_open",
        "s_open",
        "em_open",
    }
    assert sum(t.type == "tr_open" for t in found) == 6
    assert sum(t.type == "td_open" for t in found) == 5 * 10
    assert any("<script>alert(1)</script>" in t.content for t in found if t.type == "text")


def test_escaping_leaves_ordinary_names_alone():
    assert escape("digits_simclr") == "digits_simclr"
    assert escape("_private_") == "\\_private\\_"
    assert escape("a|b") == "a\\|b"


# the card

RECIPE = {
    "name": "digits_simclr",
    "description": "Digits.",
    "dataset": "digits",
    "encoder": {"backbone": "resnet18", "image_size": 28},
    "pretext": {"task": "simclr", "temperature": 0.2},
}
DATASET = {
    "digest": "d41d8cd98f00b204e9800998ecf8427e.dir",
    "samples": 5000,
    "splits": {"train": 3500, "validation": 500, "test": 1000},
    "quarantined": 3,
}
ENCODER = {
    "epochs": 20,
    "steps": 280,
    "final_loss": 3.53,
    "collapse_loss": None,
    "effective_rank": 39.8,
    "train_seconds": 75.2,
}
CLASSIFICATION = {
    "metrics": metrics("linear", 0.90, 0.95, 0.965),
    "baselines": {
        "random encoder": metrics("linear", 0.47, 0.71, 0.80),
        "raw pixels": metrics("linear", 0.72, 0.85, 0.90),
        "supervised": metrics("supervised", 0.70, 0.93, 0.98),
    },
    "classes": [str(i) for i in range(10)],
    "test_samples": 1000,
}
FEATURES = {"dim": 512, "rankme": 88.1, "alignment": 0.31, "uniformity": -2.4, "samples": 5000}


def card(
    recipe=RECIPE, dataset=DATASET, encoder=ENCODER, classification=CLASSIFICATION, features=FEATURES, **options
) -> str:
    takes = np.zeros((2, 1, 28, 28), np.uint8)
    options = {"uri": "models:/digits_simclr/3", "takes": takes, "commit": "0123abc"} | options
    evaluations = {"classification": (classification, "1,000 test samples")} if classification else {}
    return model_card(recipe, dataset, encoder, evaluations, features, **options)


def recipe_in(text: str) -> dict:
    (block,) = [t for t in tokens(text) if t.type == "fence" and t.info == "yaml"]
    return yaml.safe_load(block.content)


def test_the_card_says_what_it_must():
    text = card()
    for needed in (
        "models:/digits_simclr/3", "(2, 1, 28, 28)", "dtype=torch.uint8", DATASET["digest"], "commit 0123abc", "88.1",
        "**90.0 ±1.0\\***", "random encoder", "raw pixels", "supervised", "3,500 train", "5,000 samples are few",
    ):  # fmt: skip
        assert needed in text
    assert "None" not in text and "nan" not in text
    assert recipe_in(text) == RECIPE
    (python,) = [t for t in tokens(text) if t.type == "fence" and t.info == "python"]
    compile(python.content, "card", "exec")


def test_the_card_leads_to_what_registered_it_and_its_tables_have_room():
    text = card(made_by="[asset a/registered_model](http://127.0.0.1:3000/assets/a/registered_model) in Dagster")
    assert "- registered as: [asset a/registered_model](http://127.0.0.1:3000/" in text
    assert "registered as" not in card()
    (table,) = [t for t in tokens(text) if t.type == "table_open"]
    cells = [t.content for i, t in enumerate(tokens(text)) if tokens(text)[i - 1].type in ("td_open", "th_open")]
    assert cells[0] == "recipe\u2002\u200b" and table  # the space is neither markup nor trimmed


def test_the_limits_say_what_does_better_and_what_is_not_shown():
    recipe = RECIPE | {"promote": {"metric": "classification/linear/accuracy/10"}}
    assert "does better" not in card(recipe) and "not shown" not in card(recipe)
    near = CLASSIFICATION | {"metrics": metrics("linear", 0.48, 0.9, 0.9)}
    said = card(recipe, classification=near).partition("## Limits")[2]
    assert "By classification/linear/accuracy/10, this does better: raw pixels." in said.replace("\\", "")
    assert "it is not shown to be better than random weights: the intervals touch" in said


def test_a_card_without_labels_or_git_or_optional_numbers():
    text = card(classification=None, commit=None, encoder={"final_loss": math.nan}, features={})
    assert "No labels were at hand" in text and "not under version control" in text
    assert "None" not in text and "nan" not in text


@pytest.mark.parametrize("size", [0, 1_000, 4_000, 100_000])
def test_a_card_stays_under_what_mlflow_shows(size):
    options = {f"option_{i:06}": i for i in range(size // 20)}
    text = card(recipe=RECIPE | {"encoder": RECIPE["encoder"] | {"options": options}, "description": "d" * size})
    assert len(text) < 5_000
    assert text.count("```") == 4
    assert "## Limits" in text
    many = [str(i) for i in range(1, 2 + size // 10)]
    wide = CLASSIFICATION | {"metrics": metrics("knn", *[0.5] * len(many), shots=many), "classes": many}
    assert len(card(classification=wide)) < 5_000


def test_a_hostile_recipe_does_not_get_out_of_its_block():
    fence = "in\n```\n# out\n<script>\n~~~"
    recipe = RECIPE | {
        "description": fence + HOSTILE.replace("\x00", "").replace("\ud800", ""),
        "options": {"x": fence},
    }
    text = card(recipe=recipe, classification=CLASSIFICATION | {"classes": [HOSTILE, fence]})
    found = tokens(text)
    assert not {t.type for t in found} & {"html_inline", "html_block", "link_open", "image"}
    headings = [t.content for i, t in enumerate(found) if found[i - 1].type == "heading_open"]
    assert headings == ["digits_simclr", "Use", "Quality", "Data and training", "Limits"]
    assert recipe_in(text)["options"] == {"x": fence}


def test_of_lists_of_several_lengths_ten_is_shown_or_the_longest():
    def named(*depths):
        return {f"recommendation/full/hr_at_{k}/all": {"mean": 0.1, "low": 0.0, "high": 0.2} for k in depths}

    assert [list(row["shots"]) for row in rows_of("a", "", named(5, 10, 20))] == [["hr@10"]]
    assert [list(row["shots"]) for row in rows_of("a", "", named(5, 20))] == [["hr@20"]]
