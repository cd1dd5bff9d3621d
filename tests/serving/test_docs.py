"""docs/serving.md, from top to bottom: its commands are started, its blocks run against them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest

from ssl_pipeline.ingest.shards import rows
from ssl_pipeline.orchestration.servers import stop
from ssl_pipeline.project import Project
from ssl_pipeline.store import Stage
from tests.serving.conftest import RECIPES, free_port, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
STEP = re.compile(
    r"^    (?P<command>(?:ssl-pipeline|mlflow) [^\n]*)$|^```(?P<language>sh|python)\n(?P<block>.*?)^```$", re.M | re.S
)


def samples(stage: Stage) -> list[dict]:
    return list(islice(rows(stage.path / "tree", "train"), 20))


@pytest.mark.slow
def test_the_page_does_what_it_says(project: Project, registered: Callable[[str], dict[str, Stage]], tmp_path) -> None:
    stages = {kind: registered(kind)["dataset"] for kind in RECIPES}
    (tmp_path / "pictures").mkdir()
    for number, row in enumerate(samples(stages["image"])):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(row["image"]["bytes"])
    (tmp_path / "seven.png").write_bytes(samples(stages["image"])[0]["image"]["bytes"])
    (tmp_path / "note.flac").write_bytes(samples(stages["audio"])[0]["audio"]["bytes"])
    port = free_port()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MLFLOW_TRACKING_URI": project.tracking_uri,
        "DAGSTER_HOME": str(project.root), "PYTHONPATH": str(PAGE.parents[1]),
    }  # fmt: skip
    server: subprocess.Popen[bytes] | None = None
    said: list[str] = []

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command[-1]}\n{done.stderr[-2000:]}"
        return done.stdout

    try:
        for step in STEP.finditer(PAGE.read_text()):
            command, block = (text and text.replace("5001", str(port)) for text in step.group("command", "block"))
            if command and " serve " in command:
                if server:
                    os.killpg(server.pid, signal.SIGINT)
                    assert server.wait(60) == 0
                command += "" if "--port" in command else f" --port {port}"
                line = command.replace("ssl-pipeline", f"{sys.executable} -m ssl_pipeline.cli").split()
                with open(tmp_path / "server.log", "wb") as log:
                    server = subprocess.Popen(
                        line, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                wait_for(f"http://127.0.0.1:{port}/ping", server, tmp_path / "server.log")
            elif command:
                said.append(run([sys.executable, "-m", "ssl_pipeline.cli", *command.split()[1:]]))
            elif step["language"] == "sh":
                said.append(run(["bash", "-c", block]))
                assert all(len(one["embedding"]) > 1 for one in json.loads(said[-1])["predictions"])
            else:
                said.append(run([sys.executable, "-c", block]))
    finally:
        if server:
            stop([server.pid])
    embedded, neighbours, _, several, pixels, titles, _, folder, arrays = said
    count = len(pd.read_parquet(tmp_path / "embeddings.parquet"))
    assert f"{count} embeddings of 192 numbers" in embedded and count == 20
    assert neighbours.count("is most like") == 3
    assert several == "20 embeddings of 192 numbers\n" and pixels == "192\n"
    assert len(json.loads(titles)["predictions"]) == 2 and "embedding" in folder and arrays == "(5, 192)\n"
