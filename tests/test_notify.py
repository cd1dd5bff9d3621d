"""The hook, as a command and as an address."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ssl_pipeline.notify import HOOK, notify


def test_a_command_gets_json_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOOK, f"cat > {tmp_path}/told.json")
    notify("failure", 'disk full; "quoted" $(no shell)', run="abc")
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == {"event": "failure", "text": 'disk full; "quoted" $(no shell)', "run": "abc"}


def test_an_address_gets_a_post(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[dict] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(HOOK, f"http://127.0.0.1:{server.server_port}/secret-token")
    notify("drift", "p = 0.001", recipe="r")
    server.shutdown()
    assert got == [{"event": "drift", "text": "p = 0.001", "recipe": "r"}]


@pytest.mark.parametrize(
    "hook", ["false", "http://127.0.0.1:9/secret-token", "http://127.0.0.1:9/secret token", "no-such-command-here"]
)
def test_a_hook_that_fails_is_said_without_its_secret_and_stops_nothing(hook, monkeypatch, capfd) -> None:
    monkeypatch.setenv(HOOK, hook)
    notify("failure", "x")
    said = capfd.readouterr().err
    assert "telling of 'failure' failed" in said and "secret" not in said


def test_without_a_hook_nothing_happens(monkeypatch, capfd) -> None:
    monkeypatch.delenv(HOOK, raising=False)
    notify("failure", "x")
    assert capfd.readouterr() == ("", "")
