"""The calls of the campaign that generate no text: embeddings, rerank, transcriptions; what each of them must cost.

Data, drawing and counting only, standard library only: make_others.py makes the models after it, while
other_phases.py makes the calls. The models read one token a character, so that the arithmetic below is a witness of its
own, beside the engine's counters and the usage that clients are shown.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random

ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz ,.é🙂")
WORDS = ("Ġalways", "Ġthe", "Ġsame", "Ġwords")
TIMED_WORDS = ("Ġtold", "Ġin", "Ġtime")
SOUNDS = ("400.wav", "3427.wav", "30500.flac", "59000.mp3", "61000.ogg", "7250.m4a", "90000.wav", "2000.mp3")
EMBEDDER, RERANKER, WHISPER = "embedder", "reranker", "whisper"
INPUT_EUR, RERANK_EUR, MINUTE_EUR = Decimal("1.80") / 10**6, Decimal("4.00") / 10**6, Decimal("0.01")
AROUND_TEXT, AROUND_PAIR = 2, 3
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Ask:
    """One call.

    Attributes:
        path: Of the route.
        body: JSON, or the fields of a form.
        units: What it must be charged for: tokens, or started minutes.
        file: What the form carries.
    """

    path: str
    body: dict
    units: int
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """One way to call a route that generates no text.

    Attributes:
        name: The account's name too.
        usage_type: What it is charged for.
        unit_eur: The documented price of one.
        draw: Makes a call: (random, number of the call, folder of the models) -> call.
        shown: Reads what the answer shows of it; None where the answer shows nothing.
    """

    name: str
    usage_type: str
    unit_eur: Decimal
    draw: Callable[[Random, int, Path], Ask]
    shown: Callable[[dict], int | None]


def text(random: Random, longest: int = 120) -> str:
    """A text that is not blank."""
    return "".join(random.choices(ALPHABET, k=random.randint(1, longest))) + "a"


def embedding(count: int, **more: object) -> Callable[[Random, int, Path], Ask]:
    """A call with so many texts; with one it is no list."""

    def draw(random: Random, _number: int, _models: Path) -> Ask:
        texts = [text(random) for _ in range(count)]
        tokens = sum(len(one) + AROUND_TEXT for one in texts)
        body = {"model": EMBEDDER, "input": texts if count > 1 else texts[0], **more}
        return Ask("/v1/embeddings", body, tokens)

    return draw


def reranking(path: str, *, as_objects: bool = False, **more: object) -> Callable[[Random, int, Path], Ask]:
    """A call with a few documents."""

    def draw(random: Random, _number: int, _models: Path) -> Ask:
        query, texts = text(random, 40), [text(random) for _ in range(random.randint(1, 8))]
        tokens = sum(len(query) + len(one) + AROUND_PAIR for one in texts)
        documents = [{"text": one} for one in texts] if as_objects else texts
        return Ask(path, {"model": RERANKER, "query": query, "documents": documents, **more}, tokens)

    return draw


def hearing(path: str, **more: str) -> Callable[[Random, int, Path], Ask]:
    """A call with each of the sounds in turn."""

    def draw(_random: Random, number: int, models: Path) -> Ask:
        file = models / "sounds" / SOUNDS[number % len(SOUNDS)]
        minutes = -(-int(file.stem) // MINUTE_MS)
        return Ask(path, {"model": WHISPER, **more}, minutes, file)

    return draw


def usage_tokens(answer: dict) -> int | None:
    """The tokens that an answer shows."""
    usage = answer["usage"]
    return usage.get("total_tokens")


def heard_minutes(answer: dict) -> int | None:
    """The started minutes of the seconds that an answer shows."""
    seconds = answer.get("duration") or answer.get("usage", {}).get("seconds")
    return None if seconds is None else -(-int(Decimal(str(seconds)) * 1000) // MINUTE_MS)


EMBEDDINGS = (
    Other("embed-one", "input", INPUT_EUR, embedding(1), usage_tokens),
    Other("embed-several", "input", INPUT_EUR, embedding(9), usage_tokens),
    Other("embed-base64", "input", INPUT_EUR, embedding(3, encoding_format="base64"), usage_tokens),
)
RERANKS = (
    Other("rerank-v1", "rerank", RERANK_EUR, reranking("/v1/rerank"), usage_tokens),
    Other("rerank-v2-top", "rerank", RERANK_EUR, reranking("/v2/rerank", top_n=2), usage_tokens),
    Other("rerank-objects", "rerank", RERANK_EUR, reranking("/v1/rerank", as_objects=True), usage_tokens),
)
HEARINGS = (
    Other("transcribe", "audio_minutes", MINUTE_EUR, hearing("/v1/audio/transcriptions"), heard_minutes),
    Other(
        "transcribe-verbose",
        "audio_minutes",
        MINUTE_EUR,
        hearing("/v1/audio/transcriptions", response_format="verbose_json", language="fr"),
        heard_minutes,
    ),
    Other("translate", "audio_minutes", MINUTE_EUR, hearing("/v1/audio/translations"), heard_minutes),
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One call and its answer."""

    ask: Ask
    status: int
    shown: int | None
    fault: str = ""


def read_answer(other: Other, ask: Ask, status: int, raw: bytes) -> Answered:
    """What is seen of an answer."""
    if status != 200:
        return Answered(ask, status, None, f"{status}: {raw[:300].decode(errors='replace')}")
    answer = json.loads(raw)
    try:
        return Answered(ask, status, other.shown(answer))
    except (KeyError, TypeError, AttributeError) as exc:
        return Answered(ask, status, None, f"{exc!r} in {raw[:300].decode(errors='replace')}")


def plan(others: Iterable[Other], count: int, random: Random, models: Path) -> list[tuple[Other, Ask]]:
    """So many calls of each, in random order."""
    calls = [(other, other.draw(random, number, models)) for other in others for number in range(count)]
    random.shuffle(calls)
    return calls
