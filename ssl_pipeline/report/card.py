"""The model card: what a registered encoder is, how good it is against baselines, how to load it, where it ends."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import yaml

from ssl_pipeline.features.measures import MEASURES
from ssl_pipeline.report.tables import SPENT, comparison, escape, rows_of

LONGEST = 4900  # MLflow shows 5,000 characters of a version's description


def model_card(
    recipe: dict[str, Any],
    dataset: dict[str, Any],
    encoder: dict[str, Any],
    evaluations: dict[str, tuple[dict[str, Any], str]],
    features: dict[str, Any],
    *,
    uri: str,
    takes: np.ndarray,
    commit: str | None = None,
    made_by: str | None = None,
) -> str:
    """Markdown of under 5,000 characters from the recipe (`model_dump(mode="json")`) and the stages' summaries.

    `evaluations` are their summaries and captions by kind, `takes` is an example of what the model takes, `made_by` leads to what
    registered it. Where space is short
    the recipe's end is left out.
    """
    task, modality = recipe["pretext"]["task"], recipe["encoder"].get("kind", "image")
    dim = number(features.get("dim")) or "its"
    splits = ", ".join(f"{n:,} {escape(name)}" for name, n in (dataset.get("splits") or {}).items())
    before = [
        f"# {escape(recipe['name'])}",
        f"{escape(network(recipe['encoder']))} pretrained without labels by **{escape(task)}** on the dataset "
        f"**{escape(recipe['dataset'])}**. It turns {ONE[modality]} into {dim} features."
        + (f" {escape(recipe['description'], 300)}" if recipe.get("description") else ""),
        "## Use",
        use(uri, takes, dim, modality),
        "## Quality",
        *quality(recipe, encoder, evaluations),
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
                "samples through the encoder": number(encoder.get("encoder_passes")),
                "training time in seconds": number(encoder.get("train_seconds")),
                "energy in joules, of whole processors and GPUs": number(encoder.get("energy_joules")),
                "code": f"commit {escape(commit)}" if commit else "not under version control",
                "registered as": made_by,
            }
        ),
    ]
    after = ["## Limits", limits(recipe, dataset, evaluations, takes)]
    space = LONGEST - len("\n\n".join(before + after)) - len("\n\n")
    card = "\n\n".join([*before, *fenced_yaml(recipe, space), *after])
    # only a table of very many shots gets this far
    return (card if len(card) <= LONGEST else card[:LONGEST].rpartition("\n")[0] + "\n\n(shortened)") + "\n"


ONE = {
    "image": "an image", "audio": "a recording", "video": "a clip", "text": "a text", "image_text": "an image",
    "interactions": "a user's history", "series": "a window of a time series",
}  # fmt: skip
"""A sample of each modality."""
NAMES = {
    "image": "images", "audio": "audio", "video": "clips", "text": "tokens", "image_text": "images", "interactions": "items",
    "series": "values",
}  # fmt: skip
PREPROCESSING = {
    "image": "scaling is inside the model", "image_text": "scaling is inside the model", "video": "scaling is inside the model",
    "audio": "the spectrogram is inside the model", "text": "ids by the tokenizer in extra_files, 0 where a text is shorter",
    "interactions": "numbers by vocabulary.parquet in extra_files, oldest first, 0 before the first",
    "series": "normalisation is inside the model",
}  # fmt: skip


def network(encoder: dict[str, Any]) -> str:
    """What an encoder is, in a word or two."""
    if encoder.get("kind") == "image_text":
        return f"{network(encoder['image'])} beside {network(encoder['text'])}"
    return str(encoder.get("backbone") or encoder.get("architecture") or "transformer")


def use(uri: str, takes: np.ndarray, dim: str, modality: str) -> str:
    name = NAMES[modality]
    return (
        "```python\nimport mlflow, torch\n\n"
        f"encoder = mlflow.pytorch.load_model({uri!r})\n"
        f"{name} = torch.zeros({takes.shape}, dtype=torch.{takes.dtype.name})  # {PREPROCESSING[modality]}\n"
        f"features = encoder({name})  # [2, {dim}]\n```"
    )


def quality(
    recipe: dict[str, Any], encoder: dict[str, Any], evaluations: dict[str, tuple[dict[str, Any], str]]
) -> list[str]:
    if not evaluations:
        return ["No labels were at hand, so only measures without labels are given."]
    parts = []
    for summary, caption in evaluations.values():
        spent = [encoder.get(what) for what in SPENT]
        rows = rows_of(recipe["name"], recipe["pretext"]["task"], summary["metrics"], *spent)
        for name, metrics in (summary.get("baselines") or {}).items():
            rows += rows_of(name, "", metrics, baseline=True)
        if classes := summary.get("classes"):
            named = ", ".join(escape(name, 20) for name in classes[:10]) + (", …" if len(classes) > 10 else "")
            said = f"{len(classes):,} classes: {named}"
            parts += [said] if said not in parts else []
        parts.append(roomy(comparison(rows, caption).markdown().rstrip()))
        parts += [saved] if (saved := summary.get("labels_saved_say")) else []
    return parts


def without_labels(encoder: dict[str, Any], features: dict[str, Any]) -> str:
    measures = {measure.described: features.get(name) for name, measure in MEASURES.items()} | {
        "effective rank at the end of training": encoder.get("effective_rank"),
        "final loss": encoder.get("final_loss"),
        "loss when nothing is learnt": encoder.get("collapse_loss"),
    }
    return "Without labels:\n\n" + bullets({name: number(value) for name, value in measures.items()})


def limits(recipe: dict[str, Any], dataset: dict[str, Any], evaluations: dict[str, Any], takes: np.ndarray) -> str:
    size = " x ".join(map(str, takes.shape[1:]))
    modality = recipe["encoder"].get("kind", "image")
    known = [
        f"Data like that of {escape(recipe['dataset'])} is its only ground: nothing else was measured.",
        f"Takes {size} pixels alone; finer detail is lost before the encoder sees it."
        if modality in ("image", "image_text")
        else f"Takes samples of {size} {takes.dtype.name} alone; what is longer is cut before the encoder sees it.",
        "One training run with one seed: the intervals do not hold the spread between trainings."
        if evaluations
        else "Whether the features serve a task was not measured.",
    ]
    samples = dataset.get("samples")
    if samples is not None and samples < 50_000:
        known.insert(1, f"{samples:,} samples are few: expect a larger and more varied set to do better.")
    return "\n".join(f"- {line}" for line in [*beside(recipe, evaluations), *known])


def beside(recipe: dict[str, Any], evaluations: dict[str, tuple[dict[str, Any], str]]) -> list[str]:
    """What the metric that promotes says of the baselines, where that is not in the encoder's favour."""
    metric = (recipe.get("promote") or {}).get("metric", "")
    summary, _ = evaluations.get(metric.split("/")[0], ({}, ""))
    own, baselines = summary.get("metrics", {}).get(metric), summary.get("baselines") or {}
    if not own:
        return []
    cells = {name: metrics[metric] for name, metrics in baselines.items() if metric in metrics}
    better = [escape(name) for name, cell in cells.items() if cell["mean"] > own["mean"]]
    said = [f"By {escape(metric)}, this does better: {', '.join(better)}."] if better else []
    random = cells.get("random encoder")
    if random and random["mean"] <= own["mean"] and own["low"] <= random["high"]:
        said.append(f"By {escape(metric)}, it is not shown to be better than random weights: the intervals touch.")
    return said


def roomy(markdown: str) -> str:
    """A table whose cells end with a wide space: MLflow's page sets them side by side with none. A space of no width after it keeps
    it from being trimmed."""
    return re.sub(r"^\| (?!:--).*$", lambda row: row[0].replace(" | ", "\u2002\u200b | "), markdown, flags=re.MULTILINE)


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
