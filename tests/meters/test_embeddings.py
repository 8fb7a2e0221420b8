"""What an embeddings answer used: what the engine reports, where that can be tokens, else the stated estimate."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs

from proxy.core.calls import Terms
from proxy.core.calls.embeddings import EmbeddingsCall, prepare_embeddings
from proxy.core.catalogue import Engine, Model, TokenIds, Upstream
from proxy.core.meters import body_meter
from proxy.core.meters.embeddings import count_embeddings, embeddings_meter, read_embeddings
from proxy.core.meters.large import BodyMeter, answers_with
from proxy.core.meters.members import Members, Names
from proxy.core.usage import NOTHING, Quantity, Source, Usage, UsageType
from tests.meters.driving import amounts, drive, sources
from tests.meters.recordings import WIRE, Recording, load

ROUTE = "/v1/embeddings"
EMBED = [load(path) for path in sorted(WIRE.glob("*embed/*.http")) if path.stem != "models"]
ANSWERED = [one for one in EMBED if one.status == 200]
REFUSED = [one for one in EMBED if one.status != 200]
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}


def call_for(given: object, max_model_len: int = 512) -> EmbeddingsCall:
    upstream = Upstream("cluster", "http://127.0.0.1:9900")
    model = Model("m", (ROUTE,), max_model_len, (upstream,), "m", token_ids=TokenIds.UPSTREAM)
    return prepare_embeddings(json.dumps({"model": "m", "input": given}).encode(), ROUTE, Terms({"m": model}, 1024))


def read(usage: object, given: object = "hello world", engine: Engine = Engine.VLLM) -> Usage:
    body = json.dumps({"object": "list", "data": [VECTOR], "usage": usage}).encode()
    reading = read_embeddings(engine, body, call_for(given))
    assert reading.complete
    assert drive(embeddings_meter(engine, call_for(given)), [body[:40], body[40:]]).reading == reading
    return reading.usage


def name_of(recording: Recording) -> str:
    return recording.name


def engine_of(recording: Recording) -> Engine:
    return Engine.INFINITY if recording.name.startswith("infinity") else Engine.VLLM


def call_of(recording: Recording) -> EmbeddingsCall:
    kept = recording.request or {"input": "x" * 36_000}  # of a long request only the beginning was recorded
    return call_for(kept["input"] or "an input that the proxy itself lets pass")


def test_there_are_recordings() -> None:
    assert (len(ANSWERED), len(REFUSED)) == (11, 11)


@pytest.mark.parametrize("recording", ANSWERED, ids=name_of)
def test_a_recorded_answer_is_read_right(recording: Recording) -> None:
    reading = read_embeddings(engine_of(recording), recording.body, call_of(recording))
    assert reading.complete
    if engine_of(recording) is Engine.VLLM:
        assert amounts(reading.usage) == {"input": json.loads(recording.body)["usage"]["prompt_tokens"]}
        assert sources(reading.usage) == {Source.REPORTED}
    else:
        assert amounts(reading.usage) == {"input": call_of(recording).estimated_tokens}
        assert sources(reading.usage) == {Source.ESTIMATED}


@pytest.mark.parametrize("recording", ANSWERED, ids=name_of)
def test_a_recorded_answer_passes_whole_and_is_read_the_same_cut_anywhere(recording: Recording) -> None:
    engine, call, body = engine_of(recording), call_of(recording), recording.body
    whole = read_embeddings(engine, body, call)
    for at in range(0, len(body) + 1, 1 if len(body) < 4000 else 61):
        driven = drive(embeddings_meter(engine, call), [body[:at], body[at:]])
        assert (driven.out, driven.reading) == (body, whole)
    usage_at = body.index(b'"usage"')
    for at in range(usage_at - 3, min(len(body), usage_at + 160)):
        assert drive(embeddings_meter(engine, call), [body[:at], body[at : at + 1], body[at + 1 :]]).reading == whole


@pytest.mark.parametrize("recording", REFUSED, ids=name_of)
def test_a_recorded_refusal_is_no_answer_and_used_nothing(recording: Recording) -> None:
    reading = read_embeddings(engine_of(recording), recording.body, call_for("hi"))
    assert reading.usage == NOTHING
    assert not reading.complete


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 4, "total_tokens": 4},
        {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0, "prompt_tokens_details": None},
        {"prompt_tokens": 4},
        {"total_tokens": 4},
        {"prompt_tokens": 0, "total_tokens": 4},
        {"prompt_tokens": None, "total_tokens": 4},
    ],
)
def test_the_engines_number_is_billed(usage: object) -> None:
    assert read(usage) == Usage((Quantity(UsageType.INPUT, 4, Source.REPORTED),))


@pytest.mark.parametrize(
    "usage",
    [
        None, {}, 7, [], "x",
        {"prompt_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": -4}, {"prompt_tokens": 4.0}, {"prompt_tokens": "4"}, {"prompt_tokens": True},
        {"prompt_tokens": 28, "total_tokens": 10**30},
        {"prompt_tokens": 4, "padding": "x" * 9000},
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_replaced_by_the_estimate(usage: object) -> None:
    assert read(usage) == Usage((Quantity(UsageType.INPUT, 3, Source.ESTIMATED),))  # 11 bytes, 4 to a token


def test_characters_are_not_billed_as_tokens() -> None:
    usage = {"prompt_tokens": 11, "total_tokens": 11}
    assert read(usage, engine=Engine.INFINITY) == Usage((Quantity(UsageType.INPUT, 3, Source.ESTIMATED),))
    assert amounts(read(usage, [101, 7592, 102], Engine.INFINITY)) == {"input": 3}
    assert amounts(read(usage, ["ab", "abcdefg"], Engine.INFINITY)) == {"input": 1 + 2}
    assert amounts(read(usage, "é" * 8, Engine.INFINITY)) == {"input": 4}  # sent as \u00e9: 16 bytes in UTF-8
    assert amounts(read(usage, "x" * 90_000, Engine.INFINITY)) == {"input": 512}  # the model reads no more


class Letters:
    """A tokenizer with a token for every letter."""

    pair_tokens = 3

    def count(self, texts: Sequence[str]) -> list[int]:
        assert len(texts) <= 256
        return [len(text) for text in texts]


@pytest.mark.parametrize(
    ("given", "tokens"), [("été", 3), (["ab", "été"], 5), (["a"] * 600, 600), (["a", "b" * 600], 513)]
)
def test_what_no_engine_counted_is_counted_with_the_models_own_vocabulary(given: object, tokens: int) -> None:
    call = call_for(given)
    call = structs.replace(call, model=structs.replace(call.model, tokenizer=Letters()))
    counted = count_embeddings(call)
    body = b'{"data":[{}],"usage":{"prompt_tokens":7}}'
    measured = Usage((Quantity(UsageType.INPUT, tokens, Source.MEASURED),))
    assert read_embeddings(Engine.INFINITY, body, counted).usage == measured
    assert amounts(read_embeddings(Engine.VLLM, body, counted).usage) == {"input": 7}


def test_ids_of_the_models_own_are_not_counted_again() -> None:
    call = call_for([[1, 2], [3]])
    call = structs.replace(call, model=structs.replace(call.model, tokenizer=Letters()))
    assert count_embeddings(call) == call


def test_where_the_usage_stands_does_not_matter() -> None:
    data = json.dumps([VECTOR] * 9)
    for body in (
        f'{{"usage":{{"prompt_tokens":4}},"data":{data}}}',
        f' {{ "data" : {data} , "usage" : {{ "prompt_tokens" : 4 }} }} \n',
        f'{{"usage":null,"data":{data},"x":{{"usage":{{"prompt_tokens":9}}}},"usage":{{"prompt_tokens":4}}}}',
        f'{{"model":"\\"usage\\":{{\\"prompt_tokens\\":9}}","a":"usage","usage":{{"prompt_tokens":4}},"data":{data}}}',
        f'{{"model":"\\\\","usage":{{"a":"}}{{\\"","prompt_tokens":4}},"data":{data},"z":["usage",{{"usage":5}}]}}',
    ):
        whole = drive(embeddings_meter(Engine.VLLM, call_for("hello")), [body.encode()])
        assert amounts(whole.reading.usage) == {"input": 4}
        assert sources(whole.reading.usage) == {Source.REPORTED}
        assert whole.reading.complete
        pieces = [body.encode()[at : at + 1] for at in range(len(body.encode()))]
        assert drive(embeddings_meter(Engine.VLLM, call_for("hello")), pieces) == whole


@pytest.mark.parametrize("error", ['{"message":"no"}', '"no"', "true", '{"message":"%s"}' % ("x" * 9000), "[1]"])
def test_an_error_with_a_good_status_is_never_priced(error: str) -> None:
    reading = read_embeddings(
        Engine.VLLM, b'{"data":[],"usage":{"prompt_tokens":4},"error":%b}' % error.encode(), call_for("hi")
    )
    assert (reading.usage, reading.complete, reading.failed) == (NOTHING, False, True)


@pytest.mark.parametrize("error", ["null", "false", '""', "{}"])
def test_an_error_member_that_says_nothing_is_no_error(error: str) -> None:
    body = b'{"error":%b,"data":[{}],"usage":{"prompt_tokens":4}}' % error.encode()
    assert read_embeddings(Engine.VLLM, body, call_for("hello")).complete


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[{"embedding":[0.1',
        b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":4}',
        b'{"data":[{"embedding":[0.1]}]}}',
        b'{"data":[{"embedding":[0.1]}]}x',
        b'{"data":[{"embedding":[0.1}]}]',
        b'{"data":[{"embedding":"ab}',
        b'{"data":[{]]}',
        b'{"data":[]}"}',
        b'{"data":[]} "us',
        b'{"data":[]}\\',
        b"",
        b"<html>",
        b'"data"',
        b"[]",
        b"\xff",
    ],
)  # fmt: skip
def test_what_is_cut_off_or_no_json_is_not_complete(body: bytes) -> None:
    reading = read_embeddings(Engine.VLLM, body, call_for("hello"))
    assert not reading.complete


@pytest.mark.parametrize("body", [b"{}", b'{"detail":"Not Found"}', b'{"data":{}}', b'{"message":"x","type":"y"}'])
def test_an_object_without_vectors_and_usage_used_nothing(body: bytes) -> None:
    reading = read_embeddings(Engine.VLLM, body, call_for("hello"))
    assert (reading.usage, reading.complete) == (NOTHING, False)


def test_a_stream_that_breaks_has_the_usage_that_was_known() -> None:
    meter = embeddings_meter(Engine.VLLM, call_for("hello"))
    meter.feed(b'{"usage":{"prompt_tokens":4},"data":[{"embedding":[0.1,')
    assert amounts(meter.known()) == {"input": 4}
    assert meter.finish().usage == meter.known()
    assert not meter.finish().complete


def test_a_bare_list_is_an_answer_where_a_route_says_so() -> None:
    def of_bytes(usage: object, answer_bytes: int) -> Usage:
        return Usage((Quantity(UsageType.RERANK, answer_bytes),))

    for may_be_bare in (True, False):
        meter = BodyMeter(answers_with("results", may_be_bare=may_be_bare), of_bytes)
        assert drive(meter, [b'[{"score":1', b".5}]"]).reading.complete is may_be_bare


def test_a_name_is_only_a_name_at_the_top() -> None:
    members = Members(Names((b"usage",)))
    members.feed(b'{"a":{"usage":1},"b":[{"usage":2}],"c":"usage","usage":3}')
    assert members.found == {b"usage": b"3"}
    assert members.is_whole
    members = Members(Names((b"usage",)))
    members.feed(b'{"a\\"usage":[{}],"usage":3}')
    assert members.found == {b"usage": b"3"}
    for body in (
        b'{"a\\"usage":1}', b'{\\"usage":1}', b'{"x"usage":1}', b'["usage":1]', b'{"usage"}', b'usage":1}',
        b'{"a":1}"usage":1', b'{}{"usage":1}',
    ):  # fmt: skip
        members = Members(Names((b"usage",)))
        members.feed(body)
        assert members.found == {}


def test_a_large_chat_answer_is_read_the_same_way() -> None:
    choices = [{"index": n, "message": {"content": 'x"{\\' * 900}, "finish_reason": "stop"} for n in range(128)]
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 60}}
    body = json.dumps({"choices": choices, "usage": usage}).encode()

    def meter() -> BodyMeter:
        return body_meter(Engine.VLLM, choices=128, prompt_bytes=100, output_tokens_max=700)

    driven = drive(meter(), [body[at : at + 65_536] for at in range(0, len(body), 65_536)])
    assert driven.reading.complete
    assert amounts(driven.reading.usage) == {"input": 40, "cached_input": 60, "output": 50}
    unknown = body.replace(b'"usage"', b'"u"')
    assert amounts(drive(meter(), [unknown]).reading.usage) == {"input": 25, "output": 700}  # what it could produce


def large_answer(megabytes: int) -> bytes:
    recorded = (Path(WIRE) / "vllm-0.32.0-embed" / "emb.http").read_bytes().partition(b"\r\n\r\n")[2]
    answer = json.loads(recorded)
    answer["data"] *= megabytes * 1_000_000 // len(recorded)
    return json.dumps(answer).encode()


def test_twenty_megabytes_never_hold_the_loop_for_long() -> None:
    body = large_answer(20)
    meter = embeddings_meter(Engine.VLLM, call_for("hello world"))
    worst = total = 0.0
    for at in range(0, len(body), 262_144):
        piece = body[at : at + 262_144]
        before = time.thread_time()
        meter.feed(piece)
        worst, total = max(worst, time.thread_time() - before), total + time.thread_time() - before
    assert amounts(meter.finish().usage) == {"input": 4}
    assert meter.finish().complete
    assert worst < 0.02  # seconds of CPU; 0.5 ms on the machine of docs/performance.md
    assert total < 0.5
