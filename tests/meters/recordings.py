"""Recorded answers without their HTTP framing, and slow, plain readers of them to hold the meters against."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

WIRE = Path(__file__).parent.parent / "wire"


class Recording(NamedTuple):
    name: str
    status: int
    body: bytes
    request: dict[str, Any]
    prompt_bytes: int

    @property
    def choices(self) -> int:
        prompts = self.request.get("prompt")
        count = len(prompts) if isinstance(prompts, list) and isinstance(prompts[0], str) else 1
        return self.request.get("n", 1) * count


def load(path: Path) -> Recording:
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = b"".join(dechunked(body))
    sent = (
        path.with_suffix(".req").read_bytes().partition(b"\r\n\r\n")[2] if path.with_suffix(".req").exists() else b"{}"
    )
    try:
        request = json.loads(sent)
    except ValueError:
        request = {}
    return Recording(f"{path.parent.name}/{path.stem}", int(head.split()[1]), body, request, len(sent))


def dechunked(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        yield body[:length]
        body = body[length + 2 :]


ALL = [load(path) for path in sorted(WIRE.glob("*/*.http")) if path.stem.startswith(("chat", "comp", "err"))]
STREAMS = [one for one in ALL if one.body.startswith(b"data:")]
WHOLE = [one for one in ALL if one.status == 200 and one.body.startswith(b"{")]
REFUSED = [one for one in ALL if one.status != 200]


def events(body: bytes) -> list[Any]:
    """Every event's JSON (None for the end), read the slow way."""
    found = []
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if data == b"[DONE]":
            found.append(None)
        elif data:
            found.append(json.loads(data))
    return found


def usage_by_hand(body: bytes) -> dict[str, Any] | None:
    """The call's usage: what the chunk without choices says, else the last of each choice, added up."""
    of_choice: dict[int, Any] = {}
    for event in events(body):
        if event and event.get("usage"):
            if not event["choices"]:
                return event["usage"]
            of_choice[event["choices"][0]["index"]] = event["usage"]
    if not of_choice:
        return None
    usages = list(of_choice.values())
    if len(usages) == 1:
        return usages[0]
    return {
        "prompt_tokens": usages[0]["prompt_tokens"],
        "completion_tokens": sum(usage["completion_tokens"] for usage in usages),
    }


def quantities_by_hand(usage: dict[str, Any]) -> dict[str, int]:
    """A usage object as the quantities that it stands for, those of 0 left out."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    amounts = {
        "input": usage["prompt_tokens"] - cached,
        "cached_input": cached,
        "output": usage["completion_tokens"] - reasoning,
        "reasoning": reasoning,
    }
    return {name: amount for name, amount in amounts.items() if amount}


def deltas_by_hand(body: bytes) -> int:
    """How many deltas carry text: what an estimate counts."""
    count = 0
    for event in events(body):
        for choice in (event or {}).get("choices", []):
            delta = choice.get("delta", {})
            calls = [call["function"] for call in delta.get("tool_calls") or []]
            texts = [choice.get("text"), delta.get("content"), delta.get("reasoning"), delta.get("reasoning_content")]
            texts += [call.get(part) for call in calls for part in ("name", "arguments")]
            count += any(texts)
    return count
