"""What ``tollgate demo`` prints: commands to paste, for every route that is served.

What belongs here: the lines, as pure functions, and the files that some of them send. What does not: starting anything
(demo.py). Each command runs as it stands in a POSIX shell with curl.
"""

import json
import math
import shlex
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from proxy.core.catalogue import Model
from proxy.core.endpoints import ENDPOINTS

CHAT_MODEL: Final = "gpt-oss:120b"
_SOUND_S: Final = 2
_SOUND_HZ: Final = 440
_FRAMES_PER_SECOND: Final = 8000
_SHOWN_CHARACTERS: Final = 160
_BATCH_LINES: Final = 20
_CHAT: Final = {"messages": [{"role": "user", "content": "Bonjour !"}], "max_tokens": 100}
_RERANK: Final = {
    "query": "Quelle est la capitale de la France ?",
    "documents": ["Lyon est une grande ville.", "Paris est la capitale de la France."],
}


class Greeting(msgspec.Struct, frozen=True):
    """What a newcomer is told.

    Args:
        url: of the customers' listener.
        token: of the demo account's key.
        models: by every name that a customer may use.
        sound: a file to transcribe.
        batch: a file of requests.
        usage_command: shows what the account has used.
    """

    url: str
    token: str
    models: Mapping[str, Model]
    sound: Path
    batch: Path
    usage_command: str

    def lines(self) -> Iterator[str]:
        """Yield the first call, what it cost, and one line for each further route."""
        bearer = f"Authorization: Bearer {self.token}"
        name = self.chat_model
        if name is not None:
            yield "\nPaste this into another terminal:\n"
            yield f"curl -si {self.url}/v1/chat/completions \\"
            yield f"  -H {shlex.quote(bearer)} -H 'Content-Type: application/json' \\"
            yield f"  -d {_body(name, _CHAT)}"
            yield "\nand then see what it cost, in euros:\n"
            yield self.usage_command
        yield "\nMore to try, once these are set:\n"
        yield f"API={self.url}/v1 KEY={shlex.quote(bearer)} JSON='Content-Type: application/json'\n"
        yield from self._further()
        if self.chat_model is not None:
            yield f"\nAnd {_BATCH_LINES} requests at half the price: send them, see how far they are, fetch answers:\n"
            yield from self._batch()
        yield "\nCtrl+C ends it; what was used stays in the ledger.\n"

    def _further(self) -> Iterator[str]:
        as_json = '-H "$KEY" -H "$JSON"'
        if (name := self._model("/v1/embeddings")) is not None:
            body = _body(name, {"input": "Le texte à vectoriser"})
            yield f"curl -s $API/embeddings {as_json} -d {body} | cut -c-{_SHOWN_CHARACTERS}"
        if (name := self._model("/v1/rerank")) is not None:
            yield f"curl -s $API/rerank {as_json} -d {_body(name, _RERANK)}"
        if (name := self._model("/v1/audio/transcriptions")) is not None:
            file = f"-F file=@{shlex.quote(str(self.sound))} -F model={shlex.quote(name)}"
            yield f'curl -s $API/audio/transcriptions -H "$KEY" {file}'
        yield 'curl -s $API/models -H "$KEY"'
        yield 'curl -s $API/usage -H "$KEY"'

    def _batch(self) -> Iterator[str]:
        made = 'curl -s $API/batches -H "$KEY"'
        upload = f'curl -s $API/files -H "$KEY" -F purpose=batch -F file=@{shlex.quote(str(self.batch))}'
        asked = '{"input_file_id":"\'$FILE\'","endpoint":"/v1/chat/completions","completion_window":"24h"}'
        yield f"FILE=$({upload} | {_first('id')})"
        yield f"""{made} -H "$JSON" -d '{asked}'"""
        yield made
        yield f'curl -s $API/files/$({made} | {_first("output_file_id")})/content -H "$KEY"'

    @property
    def chat_model(self) -> str | None:
        """The model for chats: that of the documentation, or the first that there is; None: there is none."""
        return CHAT_MODEL if CHAT_MODEL in self.models else self._model("/v1/chat/completions")

    def _model(self, route: str) -> str | None:
        """Return the first model that serves a route; None: there is none, or no such route."""
        if route not in ENDPOINTS:
            return None
        return next((model.id for model in self.models.values() if route in model.endpoints), None)


def write_sound(path: Path) -> None:
    """Write two seconds of a tone, unless it is there."""
    if path.exists():
        return
    step = 2 * math.pi * _SOUND_HZ / _FRAMES_PER_SECOND
    frames = bytes(128 + int(100 * math.sin(step * frame)) for frame in range(_SOUND_S * _FRAMES_PER_SECOND))
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 1, _FRAMES_PER_SECOND, 0, "NONE", ""))
        sound.writeframes(frames)


def write_batch(path: Path, model: str) -> None:
    """Write a file of requests, a line each, unless it is there."""
    if path.exists():
        return
    body = {"model": model, **_CHAT}
    lines = [
        {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(1, _BATCH_LINES + 1)
    ]
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))


def _first(member: str) -> str:
    """Return what prints the first value of a member, which is a text, of JSON without blanks."""
    return f"""grep -o '"{member}":"[^"]*"' | head -1 | cut -d'"' -f4"""


def _body(model: str, members: Mapping[str, object]) -> str:
    return shlex.quote(json.dumps({"model": model, **members}, ensure_ascii=False))
