"""Files of requests, as customers write them."""

import json
from functools import cache
from pathlib import Path

from proxy.core.batches.checking import Bounds, FileCheck
from proxy.core.batches.lines import BATCH_ENDPOINTS
from proxy.settings.loader import load_settings

CONFIG = Path(__file__).parents[3] / "config"
CHAT = "/v1/chat/completions"
MODEL = "gpt-oss:120b"
BOUNDS = Bounds(lines_max=100, line_bytes_max=10_000, block_lines_max=10, block_bytes_max=100_000)
NOW_MS = 1_793_487_600_000


@cache
def shipped():
    """Return the settings that come with it."""
    return load_settings(CONFIG, {}, now_ms=NOW_MS)


def chat_body(content="Bonjour", **more):
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}


def line(custom_id="a", *, body=None, method="POST", url=CHAT, **more):
    """Return a line; a member that is ``...`` is left out."""
    members = {"custom_id": custom_id, "method": method, "url": url, "body": chat_body() if body is None else body}
    written = {name: value for name, value in (members | more).items() if value is not ...}
    return json.dumps(written, ensure_ascii=False).encode() + b"\n"


def check(lines, *, route=CHAT, bounds=BOUNDS, settings=None):
    """Return what comes of a file of these lines."""
    settings = settings or shipped()
    found = FileCheck("batch_1", BATCH_ENDPOINTS[route], settings.terms, settings.prices.version_at(NOW_MS), bounds)
    for each in lines:
        if isinstance(each, int):
            found.too_long(each)
        else:
            found.line(each)
        if found.is_over:
            break
    return found.finish()
