"""`ssl-pipeline doctor`: is everything in place, and what to do where it isn't.

A check is a function of the project that finds one thing, or several. It changes nothing that a run would see; what it raises
is what it found.
"""

from __future__ import annotations

import importlib.metadata as installed
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ssl_pipeline import clean, database, disk
from ssl_pipeline.project import Project
from ssl_pipeline.store import size

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["ok", "warning", "broken"]
PINS = (
    "dagster", "dagster-webserver", "dagster-dg-cli", "mlflow", "dvc", "antlr4-python3-runtime", "hydra-core", "omegaconf",
    "torch", "torchvision", "timm", "transformers", "numpy", "pandas", "pydantic",
)  # fmt: skip
LOCKSTEP = {"dagster", "dagster-webserver", "dagster-dg-cli", "antlr4-python3-runtime"}
"""Another version of one of these alone breaks Dagster."""
PATIENCE_SECONDS = 10
"""What something beyond this machine gets to answer."""
PORTS = {3000: "--port", 5000: "--mlflow-port"}
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    name: str
    state: State
    detail: str
    cure: str = ""


def examine(project: Project) -> list[Finding]:
    """All checks, one after the other."""
    return [finding for check in CHECKS for finding in findings(check, project)]


def findings(check: Callable[[Project], Finding | list[Finding]], project: Project) -> list[Finding]:
    """What a check finds; where it raises, that."""
    try:
        found = check(project)
    except Exception as error:  # whatever it is, the other checks go on
        said = one_line(error)
        reason = said if type(error).__name__ == "PipelineError" else f"{type(error).__name__}: {said}"
        return [Finding(check.__name__.replace("_", " "), "broken", reason, "remove what the reason names")]
    return found if isinstance(found, list) else [found]


def python(project: Project) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("python", "ok", version)
    return Finding("python", "broken", version, "install Python 3.11 or 3.12, then make PYTHON=python3.12 install")


def packages(project: Project) -> Finding:
    """Those that matter, beside the lock file."""
    from packaging.requirements import Requirement

    lock = next((one for one in (project.root, checkout()) if (one / "requirements.lock").is_file()), None)
    if lock is None:
        return Finding("packages", "ok", "no requirements.lock here to compare with")
    lines = [
        line for line in (lock / "requirements.lock").read_text().splitlines() if "==" in line and line[0] not in " #"
    ]
    wanted = {
        r.name: r.specifier for r in map(Requirement, lines) if r.name in PINS and (not r.marker or r.marker.evaluate())
    }
    differing, state = [], "ok"
    for name, specifier in wanted.items():
        try:
            version: str | None = installed.version(name)
        except installed.PackageNotFoundError:
            version = None
        if version is None or not specifier.contains(version, prereleases=True):
            differing.append(f"{name} {version or 'missing'} instead of {str(specifier)[2:]}")
            state = "broken" if version is None or name in LOCKSTEP or state == "broken" else "warning"
    if differing:
        return Finding("packages", state, ", ".join(differing), "make install (or uv pip sync requirements.lock)")  # type: ignore[arg-type]
    return Finding("packages", "ok", f"{len(wanted)} as in requirements.lock")


def dagster_instance(project: Project) -> Finding:
    """dagster.yaml loads, and its database can be read and written."""
    if not (project.root / "dagster.yaml").is_file():
        cure = "run in a folder that has one, or set DAGSTER_HOME to it"
        return Finding("dagster instance", "broken", f"no dagster.yaml in {project.root}", cure)
    if not (project.store.root / "dagster").exists():
        return Finding("dagster instance", "ok", "no runs yet")
    from ssl_pipeline.orchestration import health

    return Finding("dagster instance", "ok", f"{health.runs(project)} runs")


def dead_runs(project: Project) -> Finding:
    if not (project.store.root / "dagster").exists():
        return Finding("dead runs", "ok", "no runs yet")
    from ssl_pipeline.orchestration import health

    if dead := health.dead_runs(project):
        said = f"recorded as going on, but their process is gone: {', '.join(run[:8] for run in dead)}"
        return Finding("dead runs", "warning", said, "the next `ssl-pipeline run` or `up` marks them as failed")
    return Finding("dead runs", "ok", "none")


def failed(project: Project) -> list[Finding]:
    """Assets and jobs whose last run did not make them."""
    from ssl_pipeline.orchestration import health

    cure = "correct what it names, then run it again: `ssl-pipeline run RECIPE`, or the job in Dagster"
    told = [Finding("failed", "warning", why, cure) for why in health.failed(project)]
    return told or [Finding("failed", "ok", "nothing that was not made since")]


def recipes(project: Project) -> list[Finding]:
    """Every defs.yaml by itself, then all of them together."""
    from ssl_pipeline import recipe
    from ssl_pipeline.orchestration.defs_folder import files
    from ssl_pipeline.part import PipelineError

    datasets: list[Any] = []
    found: list[Any] = []
    broken: list[Finding] = []
    for file in files(project):
        try:
            more_datasets, more = recipe.load(file)
        except PipelineError as error:
            reason = str(error).removeprefix(f"{file}: ")
            broken.append(Finding(f"recipe {file.parent.name}", "broken", reason, f"correct {file}"))
        else:
            datasets, found = datasets + more_datasets, found + more
    if not broken:
        from ssl_pipeline.orchestration.project_definitions import check

        try:
            check(datasets, found)
        except PipelineError as error:
            broken.append(Finding("recipes together", "broken", str(error), "correct one of them"))
    names = ", ".join(one.name for one in found)
    return [Finding("recipes", "ok", f"{len(found)} load: {names}" if found else "none yet: ssl-pipeline new"), *broken]


def store_writable(project: Project) -> Finding:
    root = disk.existing(project.store.root)
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".doctor-"):
            return Finding("store", "ok", f"{project.store.root} can be written")
    except OSError as error:
        cure = "make it writable or set SSL_PIPELINE_STORE to a folder that is"
        return Finding("store", "broken", f"{root} cannot be written: {error.strerror}", cure)


def disk_space(project: Project) -> Finding:
    """Beside what a stage asks for when it starts: twice the largest dataset or pack; and the last training once more."""
    free, sizes = disk.free(project.store.root), dict[str, int]()
    for name in ("dataset", "pack"):
        sizes |= {f"{name} {one.key}": size(one.path) for one in project.store.finished(name)}
    largest = max(sizes, key=lambda name: sizes[name], default=None)
    trained = max(
        project.store.finished("pretrained_encoder"), key=lambda one: os.stat(one.path).st_mtime, default=None
    )
    last = size(trained.path) if trained else 0
    need = disk.needed(sizes[largest] if largest else 0)
    said = f"{disk.gb(free)} free" + (f"; the largest is {largest} with {disk.gb(sizes[largest])}" if largest else "")
    cure = "ssl-pipeline clean, free space, or set SSL_PIPELINE_STORE to a larger disk"
    if free < need:
        return Finding("disk space", "broken", f"{said}; a stage on it asks for {disk.gb(need)}", cure)
    if free < need + 3 * last:
        return Finding(
            "disk space", "warning", f"{said}; a training like the last takes {disk.gb(3 * last)} more", cure
        )
    return Finding("disk space", "ok", said)


def leftovers(project: Project) -> Finding:
    """Of interrupted stages and killed cleans, a week old."""
    store = project.store
    found = [*clean.unfinished(store), *clean.trash(store)]
    if old := [one for one in found if one.days >= 7]:
        kinds = [one.what for one in old]
        said = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return Finding(
            "leftovers", "warning", f"a week old: {said}", "ssl-pipeline clean shows them, with --yes they go"
        )
    return Finding("leftovers", "ok", "none that is a week old")


def git(project: Project) -> Finding:
    asked = ["git", "-C", str(project.root), "rev-parse", "--is-inside-work-tree"]
    if shutil.which("git") and subprocess.run(asked, capture_output=True, check=False).returncode == 0:
        return Finding("git", "ok", "a work tree")
    return Finding("git", "warning", "no work tree: models are not traced to a commit", f"git init {project.root}")


def dvc_repository(project: Project) -> list[Finding]:
    if not (project.root / ".dvc" / "config").is_file():
        return [Finding("dvc", "ok", "not set up yet: the first dataset does it")]
    from ssl_pipeline.versioning import health

    cache, name = health.repository(project.root)
    found = [Finding("dvc", "ok", f"cache in {cache}")]
    if name is None:
        return [*found, Finding("dvc remote", "ok", "none: versions are kept on this machine alone")]
    cure = f"bring it back, correct it with `dvc remote modify {name} url ...`, or `dvc config --unset core.remote`"
    try:
        place, there = within(PATIENCE_SECONDS, lambda: health.remote(project.root))
    except Exception as error:  # each kind of remote has exceptions of its own
        return [*found, Finding("dvc remote", "broken", f"{name}: {type(error).__name__}: {one_line(error)}", cure)]
    return [*found, Finding("dvc remote", "ok" if there else "broken", f"{name}: {place}", "" if there else cure)]


def data_pins(project: Project) -> Finding:
    """data.dvc beside the datasets that the store has in use."""
    from ssl_pipeline import versioning

    wrong, current = [], 0
    for pointer in sorted((project.store.root / "current").glob("*/dataset.json")):
        if stage := project.store.current(name := pointer.parent.name, "dataset"):
            current += 1
            if (pinned := versioning.pinned(project.root, name)) != (digest := stage.summary["digest"]):
                wrong.append(f"{name}: data.dvc says {pinned or 'nothing'}, the store uses {digest}")
    if wrong:
        cure = "`ssl-pipeline run` the recipe again, or set the dataset's version: to what data.dvc says"
        return Finding("data.dvc", "warning", "; ".join(wrong), cure)
    return Finding("data.dvc", "ok", f"names the versions of all {current} datasets in use")


def mlflow(project: Project) -> list[Finding]:
    """It answers; its database is of the installed version."""
    from ssl_pipeline.tracking import health

    uri = project.tracking_uri
    shown = project.tracking_place
    if not project.has_tracking:
        return [Finding("mlflow", "ok", f"{shown}: no runs yet")]
    try:
        said = within(PATIENCE_SECONDS, lambda: health.answer(uri, PATIENCE_SECONDS / 2))
    except Exception as error:  # requests', SQLAlchemy's and a driver's own
        cure = "start it, or set MLFLOW_TRACKING_URI (unset: a file in store/)"
        return [Finding("mlflow", "broken", f"{shown}: {type(error).__name__}: {one_line(error)}", cure)]
    answers = Finding("mlflow", "ok", f"{shown}: {said}")
    if project.tracks_on_a_server:
        return [answers]
    has, wants = within(6 * PATIENCE_SECONDS, lambda: health.schema(uri))  # imports MLflow
    if has in (None, wants):
        return [answers, Finding("mlflow schema", "ok", has or "an empty database")]
    cure = f"copy the database, then mlflow db upgrade {shown}; or install the MLflow that wrote it"
    return [answers, Finding("mlflow schema", "broken", f"the database is of {has}, this MLflow of {wants}", cure)]


def gpu(project: Project) -> Finding:
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        cards = ", ".join(f"{one.name} with {one.total_memory / 2**30:.0f} GiB" for one in found)
        return Finding("gpu", "ok", f"{cards}; driver {driver()}, CUDA {torch.version.cuda}")
    if Path("/proc/driver/nvidia/version").exists():
        cure = "install a driver that fits (nvidia-smi shows it) or the torch that fits the driver"
        return Finding("gpu", "broken", f"there is a card, but torch (CUDA {torch.version.cuda}) cannot use it", cure)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return Finding(
        "gpu", "ok", f"none; on the CPU, which {'multiplies' if native else 'does not multiply'} bf16 natively"
    )


def driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def compiler(project: Project) -> Finding:
    wanted = os.environ.get("CXX", "g++")
    if path := shutil.which(wanted):
        return Finding("compiler", "ok", path)
    return Finding("compiler", "warning", f"no {wanted}: torch.compile runs nothing faster", "apt install g++")


def shared_memory(project: Project) -> Finding:
    """Gloo and NCCL meet there where several processes train."""
    if not Path("/dev/shm").is_dir():
        return Finding("/dev/shm", "ok", "this system has none")
    usage = shutil.disk_usage("/dev/shm")
    if usage.free < 2**29:
        cure = "a container's is made larger with --shm-size=8g; needed for pretrain.processes above 1"
        return Finding("/dev/shm", "warning", f"{disk.gb(usage.free)} of {disk.gb(usage.total)} free", cure)
    return Finding("/dev/shm", "ok", f"{disk.gb(usage.free)} free")


def ports(project: Project) -> list[Finding]:
    """Where `ssl-pipeline up` serves."""
    found = []
    for port, option in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                found.append(Finding(f"port {port}", "ok", "free"))
            except OSError as error:
                cure = f"nothing, if it is `ssl-pipeline up` that serves there; otherwise `up {option}` another"
                found.append(Finding(f"port {port}", "warning", str(error.strerror), cure))
    return found


CHECKS: list[Callable[[Project], Finding | list[Finding]]] = [
    python, packages, recipes, git, store_writable, disk_space, leftovers, dvc_repository, data_pins, dagster_instance,
    dead_runs, failed, mlflow, gpu, compiler, shared_memory, ports,
]  # fmt: skip


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What it returns or raises, or TimeoutError where that takes longer; it is then left to itself."""
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer in {seconds:.0f} seconds")
    return answers[0]


def one_line(error: BaseException) -> str:
    return database.without_password(" ".join(str(error).split()))[:400]


def checkout() -> Path:
    return Path(__file__).resolve().parent.parent


def as_json(found: list[Finding]) -> str:
    return json.dumps({"healthy": healthy(found), "checks": [vars(one) for one in found]})


def healthy(found: list[Finding]) -> bool:
    return all(one.state != "broken" for one in found)


def table(found: list[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    colours: dict[Any, str] = {"ok": "green", "warning": "yellow", "broken": "bold red"}
    shown = Table()
    for title in ("check", "state", "what was found", "cure"):
        shown.add_column(title, overflow="fold")
    for one in found:
        shown.add_row(one.name, Text(one.state, colours[one.state]), Text(one.detail), Text(one.cure))
    return shown
