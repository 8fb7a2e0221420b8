"""Answers to a prompt are shown as a chat's: every text and number as the engine wrote it, however it was cut."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.catalogue import Engine
from proxy.core.meters import StreamMeter
from proxy.core.meters.chat_shape import ChatShaped, chat_answer
from proxy.core.meters.lines import LINE_BYTES_MAX
from tests.meters.driving import DONE, Driven, drive, meter_for
from tests.meters.recordings import STREAMS, WHOLE, Recording, events
from tests.meters.test_any_stream import CUTS, LONGER, a_meter, cut
from tests.meters.test_recorded import by_event, expected_events, name_of

RECORDED_STREAMS = [one for one in STREAMS if "/comp" in one.name]
RECORDED_WHOLE = [one for one in WHOLE if "/comp" in one.name]
MODES = [(False, True), (True, False)]


def chat_of(answer: dict[str, Any], begun: set[int] | None) -> dict[str, Any]:
    """A text_completion (without logprobs) as a chat, by hand."""
    made: dict[str, Any] = {
        "id": answer["id"].replace("cmpl-", "chatcmpl-", 1),
        "object": "chat.completion" if begun is None else "chat.completion.chunk",
        "created": answer["created"],
        "model": answer["model"],
        "choices": [],
    }
    for choice in answer["choices"]:
        said = {"content": choice["text"]}
        if begun is None or choice["index"] not in begun:
            said = {"role": "assistant", **said}
        rest = {"logprobs": None, "finish_reason": choice["finish_reason"], "stop_reason": choice["stop_reason"]}
        made["choices"].append({"index": choice["index"], ("message" if begun is None else "delta"): said, **rest})
        if begun is not None:
            begun.add(choice["index"])
    kept = ("usage", "service_tier", "system_fingerprint")
    return {**made, **{name: answer[name] for name in kept if name in answer}}


def shaped_meter(recording: Recording, mode: tuple[bool, bool]) -> ChatShaped:
    return ChatShaped(
        meter_for(
            forward_usage=mode[0],
            strip_continuous=mode[1],
            choices=recording.choices,
            prompt_bytes=recording.prompt_bytes,
        )
    )


def line(text: str = "a", index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def shape(*pieces: bytes) -> Driven:
    return drive(ChatShaped(meter_for()), pieces)


def test_there_are_recordings() -> None:
    assert len(RECORDED_STREAMS) >= 3
    assert len(RECORDED_WHOLE) >= 5


@pytest.mark.parametrize("recording", RECORDED_WHOLE, ids=name_of)
def test_a_recorded_answer_becomes_a_chats(recording: Recording) -> None:
    answer = json.loads(recording.body)
    shown = json.loads(chat_answer(recording.body))
    for choice in shown["choices"]:
        choice["logprobs"] = None
    assert shown == chat_of(answer, None)
    ChatCompletion.model_validate(json.loads(chat_answer(recording.body)))


def test_the_documented_members_come_first_and_in_their_order() -> None:
    shown = json.loads(chat_answer(RECORDED_WHOLE[0].body))
    assert list(shown)[:6] == ["id", "object", "created", "model", "choices", "usage"]
    assert list(shown["choices"][0])[:2] == ["index", "message"]
    assert list(shown["choices"][0]["message"]) == ["role", "content"]


def test_recorded_logprobs_become_a_chats() -> None:
    body = next(one.body for one in RECORDED_WHOLE if one.name.endswith("comp_echo_logprobs"))
    shown = ChatCompletion.model_validate_json(chat_answer(body))
    logprobs = shown.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    classic = json.loads(body)["choices"][0]["logprobs"]
    assert [one.token for one in logprobs.content] == classic["tokens"]
    assert [one.logprob for one in logprobs.content] == [-9999.0, *classic["token_logprobs"][1:]]
    assert [{top.token: top.logprob for top in one.top_logprobs} for one in logprobs.content] == [
        top or {} for top in classic["top_logprobs"]
    ]
    assert logprobs.content[0].bytes == list(classic["tokens"][0].encode())


def test_logprobs_in_another_form_are_left_out() -> None:
    choice = {"index": 0, "text": "a", "logprobs": {"tokens": 5}, "finish_reason": "stop"}
    assert json.loads(chat_answer(json.dumps({"choices": [choice]}).encode()))["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"error":{"message":"no"}}', b'{"choices":[{"message":{}}]}', b"\xff"]
)
def test_what_is_no_answer_to_a_prompt_stays_as_it_is(body: bytes) -> None:
    assert chat_answer(body) == body


def test_texts_and_numbers_keep_their_bytes() -> None:
    body = b'{"created":1.0,"choices":[{"text":"\\u00e9\\/","index":0}],"usage":{"prompt_tokens":1e0}}'
    shown = chat_answer(body)
    assert b'"content":"\\u00e9\\/"' in shown
    assert b'"created":1.0' in shown
    assert b'"usage":{"prompt_tokens":1e0}' in shown


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("recording", RECORDED_STREAMS, ids=name_of)
def test_a_recorded_stream_becomes_a_chats_and_is_metered_as_it_was(
    recording: Recording, mode: tuple[bool, bool]
) -> None:
    driven = drive(shaped_meter(recording, mode), [recording.body])
    begun: set[int] = set()
    assert events(driven.out) == [event and chat_of(event, begun) for event in expected_events(recording.body, mode)]
    for event in events(driven.out)[:-1]:
        ChatCompletionChunk.model_validate(event)
    plain = meter_for(
        forward_usage=mode[0],
        strip_continuous=mode[1],
        choices=recording.choices,
        prompt_bytes=recording.prompt_bytes,
    )
    assert driven.reading == drive(plain, [recording.body]).reading
    assert driven.tail == DONE
    assert b"\n\n\n" not in driven.out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("recording", RECORDED_STREAMS, ids=name_of)
def test_where_a_recorded_stream_is_cut_changes_nothing_of_the_chats(
    recording: Recording, mode: tuple[bool, bool]
) -> None:
    body = recording.body
    whole = drive(shaped_meter(recording, mode), [body])
    for at in range(len(body) + 1):
        assert drive(shaped_meter(recording, mode), [body[:at], body[at:]]) == whole, at
    assert drive(shaped_meter(recording, mode), by_event(body)) == whole
    assert drive(shaped_meter(recording, mode), [body[at : at + 1] for at in range(len(body))]) == whole


def test_each_answer_of_a_stream_is_told_its_role_once() -> None:
    out = shape(line("a", 0), line("b", 1), line("c", 0), line("d", 1), DONE).out
    deltas = [(event["choices"][0]["index"], event["choices"][0]["delta"]) for event in events(out)[:-1]]
    assert deltas == [
        (0, {"role": "assistant", "content": "a"}),
        (1, {"role": "assistant", "content": "b"}),
        (0, {"content": "c"}),
        (1, {"content": "d"}),
    ]


@pytest.mark.parametrize(
    "scrap",
    [
        b": ping\n\n",
        b"event: x\nid: 1\n\n",
        b"data: null\n\n",
        b'data: {"error":{"message":"no"}}\n\n',
        b"data: <html>\n\n",
        b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    ],
)
def test_what_is_no_chunk_of_a_prompts_answer_passes_as_it_is(scrap: bytes) -> None:
    assert shape(scrap, DONE).out == scrap + DONE
    after = shape(line("a"), scrap, DONE)
    assert after.out.endswith(scrap + DONE)


def test_line_ends_stay_what_they_are() -> None:
    out = shape(line("a").replace(b"\n", b"\r\n"), b"data: [DONE]\r\n\r\n").out
    assert out.count(b"\r\n") == out.count(b"\n") == 4
    assert shape(line("a")[:-2]).out == shape(line("a")).out[:-2]


def test_a_line_beyond_all_bounds_passes_unread() -> None:
    long = line("a" * LINE_BYTES_MAX)
    out = shape(*[long[at : at + 65536] for at in range(0, len(long), 65536)], line("b"), DONE).out
    assert out.startswith(long)
    assert events(out[len(long) :])[0]["choices"][0]["delta"] == {"role": "assistant", "content": "b"}


CHUNKS = st.builds(
    lambda text, index, finish, logprobs, usage: line(
        text, index, **({"usage": usage} if usage else {}), x=finish, y=logprobs
    ),
    st.text(max_size=5),
    st.sampled_from([0, 1, 2, -1]),
    st.sampled_from([None, "stop"]),
    st.sampled_from([None, 0]),
    st.sampled_from([None, {"prompt_tokens": 1, "total_tokens": 3, "completion_tokens": 2}]),
)
MIXED = st.lists(st.one_of(CHUNKS, LONGER), max_size=6).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(MIXED, CUTS, st.tuples(st.booleans(), st.booleans(), st.sampled_from([1, 2])))
def test_any_stream_is_shaped_alike_however_it_is_cut_and_metered_as_it_was(
    stream: bytes, cuts: list[int], mode: tuple[bool, bool, int]
) -> None:
    def shaped() -> StreamMeter:
        return ChatShaped(a_meter(Engine.VLLM, mode))

    whole = drive(shaped(), [stream])
    assert drive(shaped(), cut(stream, cuts)) == whole
    assert drive(shaped(), [stream[at : at + 1] for at in range(len(stream))]) == whole
    assert whole.reading == drive(a_meter(Engine.VLLM, mode), [stream]).reading


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_pass_as_they_are(stream: bytes) -> None:
    assert shape(stream).out == stream
    assert chat_answer(stream) == stream
