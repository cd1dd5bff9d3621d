"""`compose.yaml`: whole, and without a secret."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_every_reference_is_there_and_every_secret_comes_from_the_environment() -> None:
    text = (ROOT / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"postgres", "s3", "bucket", "mlflow", "webserver", "daemon"}
    declared = yaml.safe_load(text)
    for name, service in services.items():
        assert service.get("image"), name
        assert set(service.get("depends_on", {})) <= set(services), name
        assert {c["source"] for c in service.get("configs", [])} <= set(declared["configs"]), name
        named = {v.split(":")[0] for v in service.get("volumes", [])} - {"."}
        assert named <= set(declared["volumes"]), name
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY", variable):
                assert re.fullmatch(r"\$\{\w+:\?set it in \.env\}", value), f"{name}: {variable}"
            assert not re.search(r"//[^/]*:[^/]*@", value), f"{name}: {variable} holds a password"
    example = dict(
        line.split("=", 1) for line in (ROOT / "docs/shared.env.example").read_text().splitlines() if line[0] != "#"
    )
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example)
    assert not any(value for name, value in example.items() if re.search(r"PASSWORD|SECRET|KEY", name))
