"""Images in chats: the short form becomes the standard one, every other byte stays, and none is counted as text."""

import base64
import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.calls.images import has_media, text_bytes, with_standard_images
from proxy.core.estimate import BYTES_PER_TOKEN, IMAGE_TOKENS

URI = "data:image/png;base64,iVBORw0KGgo+/+/="


def chat(*parts, **more):
    return {"model": "gemma3:27b", "messages": [{"role": "user", "content": list(parts)}], **more}


def short(image=URI):
    return {"type": "image", "image": image}


def standard(url=URI):
    return {"type": "image_url", "image_url": {"url": url}}


def text(words):
    return {"type": "text", "text": words}


def standardised(request, **options):
    return json.loads(with_standard_images(json.dumps(request, **options).encode()))


def test_the_short_form_becomes_the_standard_one():
    assert standardised(chat(text("Que vois-tu ?"), short())) == chat(text("Que vois-tu ?"), standard())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            rb'{"messages":[{"content":[{"type":"image","image":"data:a"}]}]}',
            rb'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:a"}}]}]}',
        ),
        (  # keys in the other order, blanks, a line break, and what else is in the part
            b'{ "messages" : [ {"role":"user", "content" :\n [ { "image" : "a" , "x":1.5, "type" : "image" } ] } ]}',
            (
                b'{ "messages" : [ {"role":"user", "content" :\n [ { "image_url" : {"url":"a"} , "x":1.5,'
                b' "type" : "image_url" } ] } ]}'
            ),
        ),
        (  # PHP escapes slashes; an escaped quote does not end a text
            rb'{"messages":[{"content":[{"type":"image","image":"data:image\/png;base64,\"AB\/"}]}]}',
            rb'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image\/png;base64,\"AB\/"}}]}]}',
        ),
        (  # an object stays an object
            rb'{"messages":[{"content":[{"type":"image","image":{"url":"data:a","detail":"low"}}]}]}',
            rb'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:a","detail":"low"}}]}]}',
        ),
        (  # an address is an address
            rb'{"messages":[{"content":[{"type":"image","image":"https://example.org/a.png"}]}]}',
            rb'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://example.org/a.png"}}]}]}',
        ),
    ],
)
def test_only_the_words_of_the_short_form_are_replaced(raw, expected):
    assert with_standard_images(raw) == expected


def test_every_image_of_every_message_is_replaced_and_nothing_between_them():
    first = chat(short("data:1"), text('an "image" here'), standard("data:2"), short("data:3"))
    first["messages"] += [{"role": "assistant", "content": "an image"}, {"content": [short("data:4")], "role": "user"}]
    expected = chat(standard("data:1"), text('an "image" here'), standard("data:2"), standard("data:3"))
    expected["messages"] += [{"role": "assistant", "content": "an image"}]
    expected["messages"] += [{"content": [standard("data:4")], "role": "user"}]
    for indent in (None, 2):
        assert standardised(first, indent=indent) == expected


@pytest.mark.parametrize(
    "request_",
    [
        chat(standard()),
        chat(text("image"), text('"image"'), text('{"type":"image","image":"data:a"}'), text('say "image')),
        chat({"type": "image"}),
        chat({"type": "image", "source": {"type": "base64", "data": "AB"}}),
        chat({"image": "data:a"}),
        chat({"type": "image", "image": 5}),
        chat({"type": "image", "image": None}),
        chat({"type": "image", "image": "data:a", "image_url": {"url": "data:b"}}),
        chat({"type": "picture", "image": "data:a"}),
        chat({"type": "text", "text": "x", "deep": short()}),
        chat([short()]),
        {**chat(text("x")), "metadata": [{"content": [short()]}]},
        {**chat(text("x")), "tools": [{"type": "function", "function": {"example": {"content": [short()]}}}]},
        {"model": "m", "messages": [{"role": "user", "content": short()}, {"role": "user", "other": [short()]}]},
    ],
)
def test_what_is_not_the_short_form_passes_as_it_is(request_):
    body = json.dumps(request_).encode()
    assert with_standard_images(body) == body


PARTS = st.sampled_from(
    [short(), short("data:x"), {"image": URI, "type": "image"}, standard(), text("image"), text('"image"'), text(""),
     text('\\"image\\": {['), {"type": "image", "image": {"url": "data:y"}}, {"x": [1, {}], **text("z")}]
)  # fmt: skip
CONTENTS = st.one_of(st.lists(PARTS, max_size=4), st.sampled_from(["image", '"image"', "", None]))
MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda content: {"role": "user", "content": content}, CONTENTS),
        st.builds(lambda content: {"content": content, "x": {"content": [short()]}}, CONTENTS),
    ),
    max_size=4,
)


def by_hand(content):
    if not isinstance(content, list):
        return content
    made = []
    for part in content:
        image = part.get("image")
        is_short = part.get("type") == "image"
        made.append(standard(image) if is_short and isinstance(image, str) else part)
        if is_short and isinstance(image, dict):
            made[-1] = {"type": "image_url", "image_url": image}
    return made


@given(MESSAGES, st.sampled_from([None, 1]), st.booleans())
def test_any_chat_has_its_images_replaced_and_nothing_else(messages, indent, before):
    request = {"messages": messages, "z": [short()]} if before else {"z": {"content": [short()]}, "messages": messages}
    expected = {**request, "messages": [{**one, "content": by_hand(one["content"])} for one in messages]}
    assert standardised(request, indent=indent) == expected


@pytest.mark.parametrize(
    ("part", "is_media"),
    [
        (standard(), True),
        (short(), True),
        ({"type": "input_image"}, True),
        ({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}, True),
        ({"type": "video_url", "video_url": {"url": "x"}}, True),
        (text("Describe the image, the audio and the video"), False),
        (text("été"), False),
        (text("a < b & c > d"), False),
    ],
)
def test_what_may_be_more_than_text_is_known_by_its_type(part, is_media):
    assert has_media(json.dumps(chat(part)).encode()) is is_media


def test_escapes_hide_no_image():
    assert has_media(json.dumps(chat(standard())).replace("image_url", "\\u0069mage_url").encode())
    assert has_media(json.dumps(chat(standard())).replace("image_url", "imag\\u0065_url").encode())
    assert not has_media(json.dumps(chat(text("x"))).replace("x", "a \\u003c b \\u0026\\u002B \\u0027").encode())


def test_an_inlined_image_counts_as_an_image_and_not_as_text():
    large = "data:image/jpeg;base64," + "A" * 1_000_000
    body = json.dumps(chat(text("What is it?"), standard(large))).encode()
    assert text_bytes(body) == len(body) - len(large) - 2 + IMAGE_TOKENS * BYTES_PER_TOKEN
    twice = json.dumps(chat(standard(large), standard("https://example.org/a.png"), standard(large))).encode()
    assert text_bytes(twice) == len(twice) - 2 * (len(large) + 2) + 3 * IMAGE_TOKENS * BYTES_PER_TOKEN
    php = body.replace(b"/", b"\\/")
    assert text_bytes(php) == text_bytes(body)


def test_inlined_sound_counts_as_an_attachment():
    body = json.dumps(chat({"type": "input_audio", "input_audio": {"data": "A" * 9000, "format": "wav"}})).encode()
    assert text_bytes(body) == len(body) - 9002 + IMAGE_TOKENS * BYTES_PER_TOKEN


def test_a_text_that_looks_inlined_is_a_text():
    said = "data:image/png;base64, and then a long story" + " again" * 100
    for words in (said, f'he said "{said}"', 'see "data:image/png;base64,AAAA"'):
        body = json.dumps(chat(text(words))).encode()
        assert text_bytes(body) == len(body)


def test_no_number_of_images_holds_the_process_up():
    """More than a thousand, which no engine takes, are left as they are from there on."""
    body = json.dumps(chat(*[short()] * 2000)).encode()
    made = json.loads(with_standard_images(body))
    assert made["messages"][0]["content"] == [standard()] * 1000 + [short()] * 1000


def test_ten_megabytes_of_image_are_a_matter_of_milliseconds():
    """A bound far above what it takes (see docs/metering.md), and far below what walking through the bytes would."""
    data = base64.b64encode(random.Random(1).randbytes(7_500_000)).decode()
    body = json.dumps(chat(text("é"), short(f"data:image/png;base64,{data}"))).encode()
    took = []
    for _ in range(3):
        began = time.perf_counter()
        made = with_standard_images(body)
        text_bytes(made)
        took.append(time.perf_counter() - began)
    assert len(made) == len(body) + len('{"url":}') + 2 * len("_url")
    assert min(took) < 0.5
