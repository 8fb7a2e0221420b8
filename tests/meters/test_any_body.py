"""Whatever a whole answer is, and however it is cut: nothing raises, nothing grows, and the cuts change nothing."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.calls import Form, FormFile, PreparedCall
from proxy.core.catalogue import Engine
from proxy.core.endpoints import ENDPOINTS, Endpoint
from proxy.core.meters.large import HELD_BYTES_MAX, BodyMeter
from proxy.core.meters.members import BLANKS, VALUE_BYTES_MAX
from proxy.settings.loader import load_settings
from tests.meters.driving import Driven, drive

TERMS = load_settings(Path(__file__).parents[2] / "config", {}).terms


class Bytes:
    """A small upload."""

    size = 9

    def pieces(self) -> Iterator[bytes]:
        yield b"not audio"


RECORDING = FormFile("a.wav", "audio/wav", Bytes(), 1000)
CHAT = {"model": "gpt-oss:120b", "messages": [{"role": "user", "content": "Bonjour"}], "max_tokens": 9}
RERANK = {"model": "nvidia/llama-nemotron-rerank-vl-1b-v2", "query": "q", "documents": ["one", "two"]}
SPOKEN = Form((("model", "whisper-large-v3"),), {"file": RECORDING})
REQUESTS: dict[str, object] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": CHAT,
    "/v1/embeddings": {"model": "granite-embedding:278m", "input": "Le texte à vectoriser"},
    "/v1/rerank": RERANK,
    "/v2/rerank": RERANK,
    "/v1/audio/transcriptions": SPOKEN,
    "/v1/audio/translations": SPOKEN,
}
"""A sound request for every route of the documentation."""


def call_of(endpoint: Endpoint) -> PreparedCall:
    request = REQUESTS[endpoint.route]
    received = request if isinstance(request, Form) else json.dumps(request).encode()
    return endpoint.prepare(received, endpoint.route, TERMS)


CALLS = {route: call_of(endpoint) for route, endpoint in ENDPOINTS.items()}
ROUTES = st.sampled_from(sorted(ENDPOINTS))
PASSING = st.sampled_from(sorted(route for route, endpoint in ENDPOINTS.items() if endpoint.body_meter is not None))
ENGINES = st.sampled_from(list(Engine))

NUMBERS = st.sampled_from(
    ["0", "1", "7", "-3", "2.5", "null", '"x"', "[1]", "{}", "true", "9" * 20, "1e999", "9" * 5000]
)
USAGES = st.one_of(
    st.builds('{{"prompt_tokens":{},"total_tokens":{},"completion_tokens" : {} }}'.format, NUMBERS, NUMBERS, NUMBERS),
    st.builds('{{"meta":{{"tokens":{},"x":"}}"}},"prompt_tokens":{}}}'.format, NUMBERS, NUMBERS),
    NUMBERS,
)
NAMES = st.sampled_from(
    ["usage", "error", "data", "choices", "results", "us", "\\u0075sage", "x", "meta", "duration", "segments"]
)
VALUES = st.recursive(
    st.one_of(USAGES, st.sampled_from(['"usage"', r'"\"usage\":{"', r'"\\"', r'"}\\\""', '"]{"', "[]", "[{}]", '"'])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: "[" + ",".join(parts) + "]"),
        st.lists(st.tuples(NAMES, inner), max_size=3).map(
            lambda parts: "{" + ", ".join(f'"{name}" :{value}' for name, value in parts) + "}"
        ),
    ),
    max_leaves=8,
)
ANSWERS = st.lists(st.tuples(NAMES, VALUES), max_size=6).map(
    lambda members: "{" + ",".join(f'"{name}": {value}' for name, value in members) + "}"
)
SCRAPS = st.sampled_from(
    ['"', "\\", '\\"', "}", "{", "]", "[", ":", ",", " ", '"usage"', '"usage":', '"data":[', "\n", '"us']
)
BODIES = st.one_of(
    ANSWERS.map(str.encode),
    st.lists(st.one_of(ANSWERS, SCRAPS, VALUES), max_size=8).map("".join).map(str.encode),
    st.binary(max_size=200),
)  # fmt: skip
CUTS = st.lists(st.integers(0, 600), max_size=12)


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(at, len(body)) for at in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def meter_of(route: str, engine: Engine) -> BodyMeter:
    make = ENDPOINTS[route].body_meter
    assert make is not None
    return make(engine, CALLS[route])  # type: ignore[return-value]


def passed(route: str, engine: Engine, pieces: list[bytes]) -> Driven:
    return drive(meter_of(route, engine), pieces)


def is_json_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def test_every_route_has_a_request_to_read_answers_for() -> None:
    assert set(CALLS) == set(ENDPOINTS)
    assert {"/v1/chat/completions", "/v1/embeddings"} <= {
        route for route, endpoint in ENDPOINTS.items() if endpoint.body_meter is not None
    }


@settings(max_examples=400, deadline=None)
@given(ROUTES, ENGINES, BODIES)
def test_any_body_is_read_without_raising(route: str, engine: Engine, body: bytes) -> None:
    reading = ENDPOINTS[route].read_body(engine, body, CALLS[route])
    assert all(quantity.amount > 0 for quantity in reading.usage.quantities)
    assert not (reading.complete and reading.failed)
    if reading.complete:
        assert reading.usage.quantities  # an answer is never free


@settings(max_examples=400, deadline=None)
@given(PASSING, ENGINES, BODIES, CUTS)
def test_where_a_body_is_cut_changes_nothing(route: str, engine: Engine, body: bytes, cuts: list[int]) -> None:
    whole = passed(route, engine, [body])
    assert whole.out == body
    assert passed(route, engine, cut(body, cuts)) == whole
    assert passed(route, engine, [body[at : at + 1] for at in range(len(body))]) == whole


@settings(max_examples=300, deadline=None)
@given(PASSING, ENGINES, BODIES, CUTS)
def test_no_prefix_that_has_passed_looks_whole(route: str, engine: Engine, body: bytes, cuts: list[int]) -> None:
    meter = meter_of(route, engine)
    out = b""
    for piece in cut(body, cuts):
        out += meter.feed(piece)
        assert not is_json_object(out) or not is_json_object(body)


@settings(max_examples=300, deadline=None)
@given(PASSING, ENGINES, ANSWERS.map(str.encode), st.sampled_from([b"", b" ", b"\r\n", b"}", b"{}", b"x"]))
def test_an_answer_is_whole_when_its_json_is(route: str, engine: Engine, body: bytes, after: bytes) -> None:
    reading = passed(route, engine, [body + after]).reading
    if is_json_object(body + after):
        answer = json.loads(body + after)
        lists = {name for name, value in answer.items() if isinstance(value, list)}
        name = {"/v1/chat/completions": "choices", "/v1/embeddings": "data"}.get(route)
        if name is not None:
            is_error = "error" in lists or bool(answer.get("error"))
            assert reading.complete is (name in lists and not is_error)
    elif after.strip():
        assert not reading.complete


@pytest.mark.parametrize("route", sorted(route for route, endpoint in ENDPOINTS.items() if endpoint.body_meter))
@pytest.mark.parametrize(
    "piece",
    [b'{"usage":', b"[", b'"', b" ", b"\\", b'"usage":{"a":', b'"us', b"9", b'\\"', b"{}", b"\x00", b'{"data":[],'],
)
def test_nothing_is_kept_of_an_endless_body(route: str, piece: bytes) -> None:
    meter = meter_of(route, Engine.VLLM)
    fed = out = 0
    for opening in (b'{"x":1', b",", piece * 50):
        fed, out = fed + len(opening), out + len(meter.feed(opening))
    for _ in range(60):
        fed, out = fed + 1000 * len(piece), out + len(meter.feed(piece * 1000))
        assert fed - out <= HELD_BYTES_MAX
        kept = [getattr(meter._members, name) for name in meter._members.__slots__]
        sizes = [len(value) for value in kept if isinstance(value, bytes | dict)]
        sizes += [len(value) for value in meter._members.found.values()]
        assert max(sizes) <= VALUE_BYTES_MAX
    meter.known()
    meter.tail()
    assert not meter.finish().complete


def test_blanks_after_the_end_are_not_kept_for_ever() -> None:
    body = b'{"data":[],"usage":{"prompt_tokens":3}}'
    for pieces in ([body + BLANKS * 5000], [body, *[b" " * 100] * 200], [body[:20], body[20:] + b"\n" * 9000]):
        driven = passed("/v1/embeddings", Engine.VLLM, pieces)
        assert driven.passed == body[:-1]
        assert len(driven.tail) == HELD_BYTES_MAX
        assert driven.tail == b"".join(pieces)[len(body) - 1 :][:HELD_BYTES_MAX]
        assert driven.reading.complete
