"""Servers as children of this process: started, waited for, started again when they die, and stopped together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ssl_pipeline.part import PipelineError
from ssl_pipeline.store import write_json

PATIENCE_SECONDS = 20
"""What a server gets to end by itself before it is killed."""
MOST_DEATHS = 3
"""In a row, each within SETTLED_SECONDS of its start; then it is left dead, and `up` ends."""
SETTLED_SECONDS = 600


@dataclass
class Server:
    """A child in a process group of its own, what it prints, and where it answers."""

    name: str
    url: str
    log: Path
    command: list[str]
    environment: dict[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    answered: bool = False
    deaths: int = 0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with open(self.log, "a" if self.deaths else "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        with suppress(OSError, psutil.NoSuchProcess):  # where the disk is full it serves all the same
            write_json(self.note, {"pid": self.process.pid, "created": psutil.Process(self.process.pid).create_time()})

    @property
    def note(self) -> Path:
        """Which process it is, for whoever comes when this one was killed."""
        return self.log.with_suffix(".json")

    def is_dead(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 401  # it asks who is there
        except (urllib.error.URLError, OSError):
            return False


def until_stopped(
    servers: list[Server],
    stopped: Callable[[], bool],
    announce: Callable[[Server], None],
    say: Callable[[str], None],
    tidy: Callable[[], None] = lambda: None,
) -> None:
    """Waits; announces each server as soon as it answers. One that dies is started again, once `tidy` has seen to what died with
    it.

    Raises PipelineError where one dies before it ever answered, or again and again.
    """
    while not stopped():
        for server in servers:
            if server.is_dead():
                revive(server, say, tidy)
            elif not server.answered and server.answers():
                server.answered = True
                announce(server)
        time.sleep(0.3)


def revive(server: Server, say: Callable[[str], None], tidy: Callable[[], None]) -> None:
    assert server.process
    why = f"{last_line(server.log)} (all of it: {server.log})"
    settled = time.monotonic() - server.started > SETTLED_SECONDS
    server.deaths = 1 if settled else server.deaths + 1
    if server.deaths > MOST_DEATHS or not (server.answered or server.deaths > 1):
        raise PipelineError(f"{server.name} stopped by itself: {why}")
    say(f"{server.name} stopped by itself, and is started again: {why}")
    # what is left of it holds its port; a run that goes down with it is not cancelled but tried again
    kill_group(server.process.pid)
    tidy()
    server.answered = False
    server.start()


def kill_group(leader: int) -> None:
    """All that are left in a process group, whose leader may be gone."""
    with suppress(ProcessLookupError):
        family = members(leader)
        os.killpg(leader, signal.SIGKILL)
        psutil.wait_procs(family, timeout=5)


def members(leader: int) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if group_of(p.pid) == leader]


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


@contextmanager
def running(servers: list[Server]) -> Iterator[None]:
    """Starts them; all are stopped at the end, with whatever they started."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        stop([server.process.pid for server in servers if server.process])
        for server in servers:
            server.note.unlink(missing_ok=True)


def kill_left(server: Server, say: Callable[[str], None]) -> None:
    """The server's process of before, where whoever had started it was killed and could not stop it."""
    try:
        left = json.loads(server.note.read_text())
    except (FileNotFoundError, ValueError):
        return
    # its leader may be gone, and others may have got the number
    if any(belongs(one, server, left["created"]) for one in members(left["pid"])):
        say(f"{server.name} was left behind by an `up` that was killed: it is stopped and started anew")
        kill_group(left["pid"])


def belongs(process: psutil.Process, server: Server, created: float) -> bool:
    """Whether a member of a group that the server once led is the server, or was started by it."""
    try:
        leads = os.getpgid(process.pid) == process.pid
        ours = process.environ().get("DAGSTER_HOME") == server.environment["DAGSTER_HOME"]
        return ours and (not leads or process.create_time() == created)
    except (psutil.Error, OSError):
        return False


def stop(leaders: list[int]) -> None:
    """INT to each process group, as a terminal would send it; KILL to every descendant that is there after that."""
    family: list[psutil.Process] = []
    for pid in leaders:
        try:
            leader = psutil.Process(pid)
            family += [leader, *leader.children(recursive=True)]
            os.killpg(pid, signal.SIGINT)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    _, stubborn = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    for process in stubborn:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(stubborn, timeout=5)


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Whether INT, TERM or HUP has come. Handlers also undo a SIGINT that was inherited as ignored, which the children
    would inherit in turn."""
    came: list[int] = []
    before = {s: signal.signal(s, lambda n, _: came.append(n)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_used(host: str, port: int, option: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PipelineError(
                f"port {port} on {host} cannot be used ({error.strerror}): free it or choose another with {option}"
            ) from error


def address(host: str) -> str:
    """What a browser on this machine calls `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)


def last_line(log: Path) -> str:
    plain = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(errors="replace"))
    return (plain.strip().splitlines() or ["nothing was printed"])[-1]
