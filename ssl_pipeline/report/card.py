"""The model card: what a registered encoder is, how good it is against baselines, how to load it, where it ends."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from ssl_pipeline.report.tables import BASELINES, comparison, escape, rows_of

LONGEST = 4900  # MLflow shows 5,000 characters of a version's description


def model_card(
    recipe: dict[str, Any],
    dataset: dict[str, Any],
    encoder: dict[str, Any],
    classification: dict[str, Any] | None,
    features: dict[str, Any],
    *,
    uri: str,
    input_shape: tuple[int, int, int],
    commit: str | None = None,
    caption: str = "",
) -> str:
    """Markdown of under 5,000 characters from the recipe (`model_dump(mode="json")`) and the stages' summaries.

    `input_shape` is channels, height, width of the uint8 images that the model takes; `caption` says what the intervals
    of the classification are. Where space is short the recipe's end is left out.
    """
    task = recipe["pretext"]["task"]
    dim = number(features.get("dim")) or "its"
    splits = ", ".join(f"{n:,} {escape(name)}" for name, n in (dataset.get("splits") or {}).items())
    before = [
        f"# {escape(recipe['name'])}",
        f"{escape(recipe['encoder']['backbone'])} pretrained without labels by **{escape(task)}** on the dataset "
        f"**{escape(recipe['dataset'])}**. It turns an image into {dim} features."
        + (f" {escape(recipe['description'], 300)}" if recipe.get("description") else ""),
        "## Use",
        use(uri, input_shape, dim),
        "## Quality",
        *quality(recipe, encoder, classification, caption),
        without_labels(encoder, features),
        "## Data and training",
        bullets(
            {
                "data version (DVC)": escape(dataset["digest"]) if dataset.get("digest") else None,
                "samples": number(dataset.get("samples")),
                "splits": splits or None,
                "unusable files left out": number(dataset.get("quarantined")),
                "epochs": number(encoder.get("epochs")),
                "steps": number(encoder.get("steps")),
                "images through the encoder": number(encoder.get("encoder_passes")),
                "training time in seconds": number(encoder.get("train_seconds")),
                "code": f"commit {escape(commit)}" if commit else "not under version control",
            }
        ),
    ]
    after = ["## Limits", limits(recipe, dataset, classification, input_shape)]
    space = LONGEST - len("\n\n".join(before + after)) - len("\n\n")
    card = "\n\n".join([*before, *fenced_yaml(recipe, space), *after])
    # only a table of very many shots gets this far
    return (card if len(card) <= LONGEST else card[:LONGEST].rpartition("\n")[0] + "\n\n(shortened)") + "\n"


def use(uri: str, input_shape: tuple[int, int, int], dim: str) -> str:
    return (
        "```python\nimport mlflow, torch\n\n"
        f"encoder = mlflow.pytorch.load_model({uri!r})\n"
        f"images = torch.zeros({(2, *input_shape)}, dtype=torch.uint8)  # scaling is inside the model\n"
        f"features = encoder(images)  # [2, {dim}]\n```"
    )


def quality(
    recipe: dict[str, Any], encoder: dict[str, Any], classification: dict[str, Any] | None, caption: str
) -> list[str]:
    if classification is None:
        return ["No labels were at hand, so only measures without labels are given."]
    rows = rows_of(
        recipe["name"],
        recipe["pretext"]["task"],
        classification["metrics"],
        encoder.get("train_seconds"),
        encoder.get("encoder_passes"),
    )
    for baseline in BASELINES:
        rows += rows_of(baseline, "", (classification.get("baselines") or {}).get(baseline, {}))
    tested = f" on {classification['test_samples']:,} test images" if "test_samples" in classification else ""
    classes = classification.get("classes") or []
    named = ", ".join(escape(name, 20) for name in classes[:10]) + (", …" if len(classes) > 10 else "")
    among = f" among {len(classes):,} classes ({named})" if classes else ""
    return [f"Accuracy in per cent{among}{tested}, by labels a class:", comparison(rows, caption).markdown().rstrip()]


def without_labels(encoder: dict[str, Any], features: dict[str, Any]) -> str:
    measures = {
        "RankMe (directions in use)": features.get("rankme"),
        "alignment (lower is better)": features.get("alignment"),
        "uniformity (lower is better)": features.get("uniformity"),
        "effective rank at the end of training": encoder.get("effective_rank"),
        "final loss": encoder.get("final_loss"),
        "loss when nothing is learnt": encoder.get("collapse_loss"),
    }
    return "Without labels:\n\n" + bullets({name: number(value) for name, value in measures.items()})


def limits(
    recipe: dict[str, Any], dataset: dict[str, Any], classification: dict[str, Any] | None, shape: tuple[int, int, int]
) -> str:
    channels, height, width = shape
    known = [
        f"Images like those of {escape(recipe['dataset'])} are its only ground: nothing else was measured.",
        f"Takes {channels} x {height} x {width} pixels alone; finer detail is lost before the encoder sees it.",
        "One training run with one seed: the intervals do not hold the spread between trainings."
        if classification
        else "Whether the features serve a task was not measured.",
    ]
    samples = dataset.get("samples")
    if samples is not None and samples < 50_000:
        known.insert(1, f"{samples:,} samples are few: expect a larger and more varied set to do better.")
    return "\n".join(f"- {line}" for line in known)


def bullets(items: dict[str, str | None]) -> str:
    """Those that are known."""
    return "\n".join(f"- {name}: {value}" for name, value in items.items() if value is not None)


def number(value: Any) -> str | None:
    """`1,000`, `0.1235`; None for what is unknown or not finite."""
    if value is None or not math.isfinite(value):
        return None
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def fenced_yaml(recipe: dict[str, Any], space: int) -> list[str]:
    """The recipe as YAML in at most `space` characters, behind a fence longer than any in it; none if too few."""
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    room = space - len(f"{fence}yaml\n# (shortened)\n{fence}")
    if room < 0:
        return []
    kept = []
    for line in text.splitlines():
        room -= len(line) + 1
        if room < 0:
            kept.append("# (shortened)")
            break
        kept.append(line)
    return ["\n".join([f"{fence}yaml", *kept, fence])]
