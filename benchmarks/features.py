"""Embeddings of JPEG files at 96 px with resnet18, images a second: `python -m benchmarks.features [--json]`, three minutes.

Ours is what the features stage runs, from a finished pack (decoding is counted, spread over ten extractions: one a
retraining). Peers: the loop that everyone writes, a DataLoader with two workers and fp32; and ONNX Runtime, fp32, on
pixels that are already in memory.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from benchmarks.race import Turn, race, repeat, report
from benchmarks.simclr import pack_photos, write_photos
from ssl_pipeline.encoders.encoder import Encoder, build
from ssl_pipeline.features.extract import BATCH, embed
from ssl_pipeline.pretrain.compute import fast_forward, pick_device
from ssl_pipeline.recipe import Encoder as Settings
from ssl_pipeline.recipe import Pretrain

SIDE, COUNT, EXTRACTIONS = 96, 2048, 10
SETTINGS = Settings(backbone="resnet18", image_size=SIDE, stem="default")
Extract = Callable[[], np.ndarray]


class Photos(Dataset[torch.Tensor]):
    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return to_tensor(Image.open(self.paths[i]).convert("RGB"))


def main(as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", SIDE, COUNT)
        decoding = pack_photos(folder, SIDE)
        contenders = {"ours": ours, "DataLoader loop": loop, "ONNX Runtime, from memory": runtime}
        rates = race(
            {peer: partial(timed, make, folder) for peer, make in contenders.items()},
            rounds=5,
            seconds=2,
            asleep=("DataLoader loop",),
        )
        exact, fast = (torch.from_numpy(make(folder)()) for make in (loop, ours))
        cosine = float(torch.nn.functional.cosine_similarity(exact, fast).min())
    mine = 1 / (1 / rates["ours"] + decoding / EXTRACTIONS)
    rows = [
        {
            "peer": peer, "image_size": SIDE, "encoder": "resnet18", "images_per_second": mine,
            "peer_images_per_second": rates[peer], "speedup": mine / rates[peer], "smallest_cosine": cosine,
        }
        for peer in list(contenders)[1:]
    ]  # fmt: skip
    report("Embeddings, images a second", rows, as_json)


def timed(make: Callable[[Path], Extract], folder: Path) -> Turn:
    return repeat(make(folder), COUNT)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return build(SETTINGS, {"channels": 3}).eval()


def ours(folder: Path) -> Extract:
    settings = Pretrain(compile=True)  # what `auto` decides from some 80,000 images on
    model = encoder().to(pick_device(settings.device))
    stored = np.load(folder / "train.image.npy", mmap_mode="r")
    forward = fast_forward(model, settings, COUNT, BATCH)
    return lambda: embed(model, {"image": stored}, settings, forward)


def loop(folder: Path) -> Extract:
    model = encoder()
    loader = DataLoader(Photos(folder / "photos"), BATCH, num_workers=2, persistent_workers=True)

    def extract() -> np.ndarray:
        with torch.no_grad():
            return torch.cat([model(batch) for batch in loader]).numpy()

    return extract


def runtime(folder: Path) -> Extract:
    file = io.BytesIO()
    example = torch.zeros(2, 3, SIDE, SIDE)
    torch.onnx.export(
        encoder(), (example,), file, input_names=["images"], dynamic_axes={"images": {0: "batch"}}, dynamo=False
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    stored = np.load(folder / "train.image.npy", mmap_mode="r")

    def extract() -> np.ndarray:
        parts = (stored[i : i + BATCH].astype(np.float32) / 255 for i in range(0, COUNT, BATCH))
        return np.concatenate([session.run(None, {"images": part})[0] for part in parts])

    return extract


if __name__ == "__main__":
    main("--json" in sys.argv)
