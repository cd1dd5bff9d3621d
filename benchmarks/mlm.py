"""Masked language modelling, real tokens a second: `python -m benchmarks.mlm [--json] [--rounds N]`, some four minutes.

BERT of 4 layers of 256 on short documents (AG News where the development data is beside the checkout, otherwise the sentences
of the demo's news), about as many tokens a step for all. Real tokens are those of the text: padding, [CLS] and [SEP] are not
counted. Ours is the step of the training loop with its data: blocks without padding, labels drawn an epoch at a time, bf16,
logits at the asked places only. Peers are transformers' Trainer with DataCollatorForLanguageModeling: a document a row,
padded to the longest of its batch; the same in bf16; and blocks made beforehand, as its run_mlm.py does. Tokenized
beforehand, all of them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from transformers import BertForMaskedLM, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments
from transformers.data.data_collator import DataCollatorForLanguageModeling

from benchmarks.race import Make, Turn, race, repeat, report
from ssl_pipeline.encoders.settings_text import TextEncoder
from ssl_pipeline.encoders.text import build, config_of
from ssl_pipeline.ingest import demo_text, documents
from ssl_pipeline.ingest.item import Item
from ssl_pipeline.ingest.shards import Shards
from ssl_pipeline.ingest.source_text import Text
from ssl_pipeline.ingest.text import Texts
from ssl_pipeline.pretext.masked_language import MaskedLanguage
from ssl_pipeline.pretext.pack import Pack
from ssl_pipeline.pretext.packing.text import write
from ssl_pipeline.pretrain.compute import keep_freed_memory

AG_NEWS = Path(__file__).resolve().parents[2] / "shared" / "data" / "agnews.zip"
SETTINGS = TextEncoder(architecture="bert")
DOCUMENTS = 32
"""A step."""
LEARNING_RATE, MASKED = 5e-4, 0.3
PEERS: dict[str, dict[str, bool]] = {
    "Trainer, padded": {"blocks": False, "bf16": False}, "Trainer, padded, bf16": {"blocks": False, "bf16": True},
    "Trainer, blocks": {"blocks": True, "bf16": False}, "Trainer, blocks, bf16": {"blocks": True, "bf16": True},
}  # fmt: skip


def main(as_json: bool, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts, data = pack_texts(folder)
        contenders: dict[str, Make] = {"ours": partial(ours, folder, facts)}
        contenders |= {peer: partial(trainer, folder, facts, **how) for peer, how in PEERS.items()}
        rates = race(contenders, rounds=rounds, seconds=10)
    rows = [
        {
            "peer": peer, "data": data, "documents_per_step": DOCUMENTS, "tokens_per_document": facts["mean_tokens"]["train"],
            "tokens_per_second": rates["ours"], "peer_tokens_per_second": rates[peer], "speedup": rates["ours"] / rates[peer],
        }
        for peer in PEERS
    ]  # fmt: skip
    report("Masked language modelling, real tokens a second", rows, as_json)


def pack_texts(folder: Path) -> tuple[dict[str, Any], str]:
    """Packs nine tenths of the documents for training; returns the facts, and what the documents are."""
    (folder / "tree").mkdir()
    (folder / "pack").mkdir()
    found, data = items()
    with Shards(folder / "tree", Texts()) as shards:
        for i, item in enumerate(found):
            sample = Texts().read(item.load(), item.extra)
            row = {"sample_id": sample.identity, "label": None, "group": None, "source": item.source}
            shards.add({8: "validation", 9: "test"}.get(i % 20, "train"), row | sample.columns)
    return write(folder / "tree", folder / "pack", SETTINGS), data


def items() -> tuple[Iterator[Item], str]:
    if AG_NEWS.exists():
        source = Text(path=str(AG_NEWS), member="agnews/ag_news_csv/test.csv", header=False, text=(2, 3))
        return documents.read(source, AG_NEWS).items, "AG News"
    sentences = (s for item in demo_text.items("lee_news") for s in re.split(r"(?<=[.?!]) ", item.load().decode()) if s)
    return (Item(str(i), partial(str.encode, s)) for i, s in enumerate(sentences)), "sentences of news"


def ours(folder: Path, facts: dict[str, Any]) -> Turn:
    keep_freed_memory()
    blocks = torch.from_numpy(np.array(Pack(folder / "pack", facts).training("train")["tokens"]))
    per_block = facts["tokens"]["train"] / facts["blocks"]["train"]
    batch_size = round(DOCUMENTS * facts["mean_tokens"]["train"] / per_block)
    torch.manual_seed(0)
    encoder, task = build(SETTINGS, facts), MaskedLanguage(mask_ratio=MASKED).fitted(SETTINGS)
    head = task.build_head(encoder)
    model = nn.ModuleList([encoder, head]).train()
    optimizer = create_optimizer_v2(model, "adamw", lr=LEARNING_RATE, weight_decay=0.05, fused=True)

    def batches() -> Iterator[Any]:
        generator = torch.Generator().manual_seed(0)
        while True:
            drawn = task.draw(len(blocks), SETTINGS, generator)
            for part in torch.randperm(len(blocks), generator=generator).split(batch_size):
                if len(part) == batch_size:
                    yield {"tokens": blocks[part]}, {name: value[part] for name, value in drawn.items()}

    coming = batches()

    def step() -> None:
        batch, labels = next(coming)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                views = task.render(encoder, encoder.read(batch), labels)
            task.step(encoder, head, views, labels)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return repeat(step, batch_size * per_block)


def trainer(folder: Path, facts: dict[str, Any], blocks: bool, bf16: bool) -> Turn:
    """The Trainer itself, in a thread that stands still between its turns, held in a callback."""
    pack = Pack(folder / "pack", facts)
    torch.manual_seed(0)
    build(SETTINGS, facts).save_extra(folder)
    model = BertForMaskedLM(config_of(SETTINGS, facts))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "transformers")
    stored = (pack.training if blocks else pack.samples)("train")["tokens"]
    pad, batch_size = facts["special"]["pad"], DOCUMENTS
    rows = [{"input_ids": row[row != pad].tolist()} for row in np.array(stored)]
    if blocks:
        batch_size = round(
            DOCUMENTS * facts["mean_tokens"]["train"] * facts["blocks"]["train"] / facts["tokens"]["train"]
        )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    special = torch.tensor([facts["special"][name] for name in ("pad", "cls", "sep")])
    may_run, stands = threading.Event(), threading.Event()
    tokens, until = [0], [0.0]

    def collate(examples: list[Any]) -> Any:
        tokens[0] += sum(int(torch.isin(torch.tensor(e["input_ids"]), special, invert=True).sum()) for e in examples)
        return collator(examples)

    class Turns(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if time.perf_counter() > until[0]:
                may_run.clear()
                stands.set()
                may_run.wait()

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=batch_size, max_steps=1_000_000, bf16=bf16,
        use_cpu=True, learning_rate=LEARNING_RATE, weight_decay=0.05, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    loop = Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[Turns()])  # type: ignore[arg-type]

    def run() -> None:
        may_run.wait()
        try:
            loop.train()
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # the race hears of a process that ends, not of a thread

    threading.Thread(target=run, daemon=True).start()

    def turn(seconds: float) -> tuple[float, float]:
        tokens[0] = 0
        stands.clear()
        started = time.perf_counter()
        until[0] = started + seconds
        may_run.set()
        stands.wait()
        return tokens[0], time.perf_counter() - started

    return turn


if __name__ == "__main__":
    main("--json" in sys.argv, int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 3)
