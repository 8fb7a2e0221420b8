"""Messages are signed as Standard Webhooks says, and tried again with growing pauses."""

import base64

import pytest

from proxy.core.events import Event, EventKind, thresholds_reached
from proxy.core.webhooks import PAUSES_S, Webhook, parse_secret, pause_ms, signature, signed_headers

KEY = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_the_published_example():
    body = b'{"test": 2432232314}'
    assert signature(parse_secret(f"whsec_{KEY}"), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_the_headers_name_message_time_and_signature():
    headers = signed_headers(b"k" * 24, "evt_1", 17, b"{}")
    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == "17"
    assert headers["webhook-signature"] == signature(b"k" * 24, "evt_1", 17, b"{}")


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        "whsec_",
        "whsec_!!!",
        "whsec_" + base64.b64encode(b"k" * 23).decode(),
        "whsec_" + base64.b64encode(b"k" * 65).decode(),
        f"whsec_{KEY}ü",
    ],
)
def test_what_is_no_secret_is_refused_without_being_shown(text):
    with pytest.raises(ValueError, match=r"^whsec_ and 24 to 64 bytes in base64$"):
        parse_secret(text)


def test_a_repr_shows_neither_secret_nor_url():
    shown = repr(Webhook("https://example.com/token", b"k" * 24, 10, 1000))
    assert "kkk" not in shown
    assert "token" not in shown


def test_pauses_grow_and_end():
    pauses = [pause_ms(attempts) for attempts in range(1, 20)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 5000
    assert pauses[-1] == PAUSES_S[-1] * 1000


@pytest.mark.parametrize(
    ("used", "whole", "reached"),
    [
        (0, 0, ()),
        (0, 100, ()),
        (1, 0, ()),
        (49_999, 100_000, ()),
        (50_000, 100_000, (50,)),
        (79_999, 100_000, (50,)),
        (80_000, 100_000, (50, 80)),
        (99_499, 100_000, (50, 80)),
        (99_500, 100_000, (50, 80, 100)),
        (200_000, 100_000, (50, 80, 100)),
        (2**70, 2**71, (50,)),
    ],
)
def test_thresholds_are_reached_exactly(used, whole, reached):
    assert thresholds_reached(used, whole) == reached


def test_an_event_is_written_in_the_recommended_shape():
    event = Event("acc_a", EventKind.TIER_ACTIVATED, "tier1", 0, {"account": "acme"})
    assert event.body("2026-11-24T11:00:00Z") == (
        '{"type":"tier.activated","timestamp":"2026-11-24T11:00:00Z","data":{"account":"acme"}}'
    )
