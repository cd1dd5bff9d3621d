"""One hook for whatever a person should hear of: a failed run, a gate that does not hold, drift, a promotion.

`SSL_PIPELINE_NOTIFY` names it: an http(s) address, which gets a POST, or a command, which gets standard input; both get JSON
with `event`, `text` and further facts. What goes wrong here is printed and stops nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from http.client import HTTPException
from typing import Any

HOOK = "SSL_PIPELINE_NOTIFY"
TIMEOUT_SECONDS = 20


def notify(event: str, text: str, **facts: Any) -> None:
    """Tells the hook, where there is one."""
    hook = os.environ.get(HOOK)
    if not hook:
        return
    said = json.dumps({"event": event, "text": text, **facts}, default=str).encode()
    try:
        if hook.startswith(("http://", "https://")):
            asked = urllib.request.Request(hook, said, {"Content-Type": "application/json"})
            urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS).close()
        else:
            subprocess.run(hook, shell=True, input=said, timeout=TIMEOUT_SECONDS, check=True, stdout=subprocess.DEVNULL)
    except (OSError, ValueError, HTTPException, subprocess.SubprocessError) as error:
        # an address may hold a token: its kind is all that is told
        print(f"{HOOK}: telling of {event!r} failed ({type(error).__name__})", file=sys.stderr, flush=True)
