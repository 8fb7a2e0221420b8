"""Recorded answers of real servers are read right, whole and cut at every byte."""

import json

import pytest

from proxy.core.catalogue import Engine
from proxy.core.meters import StreamMeter, read_body
from proxy.core.usage import Source, UsageType
from tests.meters.driving import Driven, amounts, drive, meter_for, sources
from tests.meters.recordings import (
    REFUSED,
    STREAMS,
    WHOLE,
    Recording,
    deltas_by_hand,
    events,
    quantities_by_hand,
    usage_by_hand,
)  # fmt: skip

MODES = [(False, False), (False, True), (True, False), (True, True)]
EVERY_BYTE_MAX = 8192


def name_of(recording: Recording) -> str:
    return recording.name


def a_meter(recording: Recording, mode: tuple[bool, bool]) -> StreamMeter:
    return meter_for(
        forward_usage=mode[0],
        strip_continuous=mode[1],
        choices=recording.choices,
        prompt_bytes=recording.prompt_bytes,
    )


def expected_events(body: bytes, mode: tuple[bool, bool]) -> list[object]:
    forward_usage, strip = mode
    kept = []
    for event in events(body):
        if event and event.get("usage"):
            if not event["choices"] and not forward_usage:
                continue
            if event["choices"] and strip:
                event.pop("usage")
        kept.append(event)
    return kept


def test_there_are_recordings() -> None:
    assert (len(STREAMS), len(WHOLE), len(REFUSED)) >= (25, 30, 15)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("recording", STREAMS, ids=name_of)
def test_a_recorded_stream_has_the_usage_that_it_states(recording: Recording, mode: tuple[bool, bool]) -> None:
    driven = drive(a_meter(recording, mode), [recording.body])
    stated = usage_by_hand(recording.body)
    if stated:
        assert amounts(driven.reading.usage) == quantities_by_hand(stated)
        assert sources(driven.reading.usage) == {Source.REPORTED}
    else:
        assert amounts(driven.reading.usage) == {
            "input": -(-recording.prompt_bytes // 4),
            "output": deltas_by_hand(recording.body),
        }
        assert sources(driven.reading.usage) == {Source.ESTIMATED}
    assert driven.reading.complete is not recording.name.endswith("aborted")
    assert not driven.reading.failed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("recording", STREAMS, ids=name_of)
def test_a_recorded_stream_loses_only_what_was_not_asked_for(recording: Recording, mode: tuple[bool, bool]) -> None:
    driven = drive(a_meter(recording, mode), [recording.body])
    assert events(driven.out) == expected_events(recording.body, mode)
    if mode == (True, False):
        assert driven.out == recording.body
    ends = recording.body.find(b"data: [DONE]")
    assert driven.tail == (recording.body[ends:] if ends >= 0 else b"")


@pytest.mark.parametrize("mode", [(False, True), (True, False)])
@pytest.mark.parametrize("recording", STREAMS, ids=name_of)
def test_where_a_recorded_stream_is_cut_changes_nothing(recording: Recording, mode: tuple[bool, bool]) -> None:
    body = recording.body
    whole = drive(a_meter(recording, mode), [body])
    step = 1 if len(body) <= EVERY_BYTE_MAX else 4999
    for at in range(0, len(body) + 1, step):
        assert drive(a_meter(recording, mode), [body[:at], body[at:]]) == whole, at
    if step == 1:
        assert byte_by_byte(recording, mode) == whole
    assert drive(a_meter(recording, mode), by_event(body)) == whole


def byte_by_byte(recording: Recording, mode: tuple[bool, bool]) -> Driven:
    meter = a_meter(recording, mode)
    passed = []
    for at in range(len(recording.body)):
        out = meter.feed(recording.body[at : at + 1])
        assert not out or out.endswith(b"\n")
        passed.append(out)
    return Driven(b"".join(passed), meter.tail(), meter.finish())


def by_event(body: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


STATISTICS = {"chat", "chat-noparse"}


@pytest.mark.parametrize("kind", sorted(STATISTICS))
def test_statistics_that_were_cut_out_leave_the_stream_that_was_never_asked_for_them(kind: str) -> None:
    recorded = {one.name: one for one in STREAMS}
    asked = recorded[f"vllm-0.32.0-{kind}/chat_stream_continuous"]
    unasked = recorded[f"vllm-0.32.0-{kind}/chat_stream_usage"]
    driven = drive(a_meter(asked, (True, True)), [asked.body])
    assert [anonymous(event) for event in events(driven.out)] == [anonymous(event) for event in events(unasked.body)]
    never = recorded[f"vllm-0.32.0-{kind}/chat_stream_nousage"]
    driven = drive(a_meter(asked, (False, True)), [asked.body])
    plain = [anonymous(event) for event in events(driven.out)]
    assert plain == [anonymous(event) for event in events(never.body)]


def anonymous(event: object) -> object:
    """An event without what differs from call to call, nor the fingerprint that vLLM puts on the last chunk."""
    if not isinstance(event, dict):
        return event
    return {name: value for name, value in event.items() if name not in ("id", "created", "system_fingerprint")}


@pytest.mark.parametrize("recording", [one for one in STREAMS if one.choices == 1], ids=name_of)
def test_a_stream_broken_anywhere_is_metered_to_what_was_delivered(recording: Recording) -> None:
    body = recording.body[: recording.body.find(b"data: [DONE]")]
    for at in range(0, len(body), 37 if len(body) <= EVERY_BYTE_MAX else 9973):
        meter = a_meter(recording, (False, True))
        meter.feed(body[:at])
        delivered = body[: body.rfind(b"\n", 0, at) + 1]
        stated = usage_by_hand(delivered)
        if stated:
            assert amounts(meter.finish().usage) == quantities_by_hand(stated)
        else:
            assert meter.known().output_tokens >= deltas_by_hand(delivered)
            assert meter.known().output_tokens <= deltas_by_hand(delivered) + 1
        assert meter.finish().usage == meter.known()


@pytest.mark.parametrize("recording", WHOLE, ids=name_of)
def test_a_recorded_whole_answer_has_the_usage_that_it_states(recording: Recording) -> None:
    reading = read_body(Engine.VLLM, recording.body, choices=recording.choices, prompt_bytes=recording.prompt_bytes)
    assert amounts(reading.usage) == quantities_by_hand(json.loads(recording.body)["usage"])
    assert sources(reading.usage) == {Source.REPORTED}
    assert reading.complete


@pytest.mark.parametrize("recording", WHOLE, ids=name_of)
def test_a_recorded_whole_answer_without_its_usage_is_estimated_near_it(recording: Recording) -> None:
    answer = json.loads(recording.body)
    stated = answer.pop("usage")
    reading = read_body(
        Engine.VLLM, json.dumps(answer).encode(), choices=recording.choices, prompt_bytes=recording.prompt_bytes
    )
    assert sources(reading.usage) == {Source.ESTIMATED}
    assert 1 <= reading.usage.amount(UsageType.OUTPUT) <= 4 * stated["completion_tokens"]
    assert reading.complete


@pytest.mark.parametrize("recording", REFUSED, ids=name_of)
def test_a_recorded_refusal_used_nothing(recording: Recording) -> None:
    reading = read_body(Engine.VLLM, recording.body, choices=1, prompt_bytes=recording.prompt_bytes)
    assert reading.usage.quantities == ()
    assert not reading.complete
