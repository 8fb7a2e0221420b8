"""One line an event, and never a secret in it."""

import io
import json
import logging
import warnings

import pytest
import structlog

from proxy.core.accounts import format_key
from proxy.telemetry import logs
from proxy.telemetry.logs import RepeatFilter, configure, log_failure
from proxy.telemetry.redaction import REDACTED, redact_value

KEY = format_key(bytes(range(32)))


@pytest.fixture(autouse=True)
def restored():
    """Logging belongs to the process: give it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    configure("info", json=True, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raised(failure: Exception) -> Exception:
    """The same failure with the traceback of having been raised."""
    with pytest.raises(type(failure)) as caught:
        raise failure
    return caught.value


def test_an_event_is_one_json_line(stream):
    structlog.get_logger("proxy.ledger").warning("ledger away", attempt=3, wait_s=0.5)

    (line,) = lines(stream)
    assert list(line) == ["ts", "level", "logger", "event", "attempt", "wait_s"]
    assert line["ts"].endswith("Z")
    assert (line["level"], line["logger"], line["event"], line["attempt"]) == (
        "warning",
        "proxy.ledger",
        "ledger away",
        3,
    )


def test_a_library_s_log_is_a_line_of_the_same_form(stream):
    logging.getLogger("alembic").info("running %s -> %s", "0001", "0002")

    (line,) = lines(stream)
    assert (line["level"], line["logger"], line["event"]) == ("info", "alembic", "running 0001 -> 0002")


def test_a_warning_of_python_is_a_line_too(stream):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "DeprecationWarning: old" in lines(stream)[0]["event"]


def test_what_lies_below_the_level_is_not_written(stream):
    structlog.get_logger("proxy").debug("detail")
    logging.getLogger("redis").debug("detail")

    assert lines(stream) == []


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="loud"):
        configure("loud")


def test_configuring_again_replaces_what_was_there(stream):
    again = io.StringIO()
    configure("warning", json=True, stream=again)
    structlog.get_logger("proxy").warning("once")

    assert (len(lines(stream)), len(lines(again))) == (0, 1)


def test_a_failure_is_logged_with_its_traceback_on_one_line(stream):
    log_failure("commit", raised(ConnectionError(f"refused with {KEY}")))

    (line,) = lines(stream)
    assert line["where"] == "commit"
    assert "Traceback" in line["exception"]
    assert "ConnectionError: refused with tg-[redacted]" in line["exception"]


def test_a_person_gets_plain_lines():
    stream = io.StringIO()
    configure("info", json=False, stream=stream)
    structlog.get_logger("proxy").info("listening", port=8080, token="x")

    assert stream.getvalue().rstrip().endswith(f"info     listening  port=8080 token={REDACTED}")


# Redaction.

SECRETS = {
    "key": KEY,
    "key_cut_short": KEY[:14],
    "authorization": "Bearer abc.def-ghi",
    "upstream_key": "sk-proj-abcdefghijklmnop",
    "hub_key": "hf_abcdefghijklmnopqrst",
    "password": "hunter2hunter2",
    "password_with_signs": "p@ss:w/rd!",
}


@pytest.mark.parametrize("render_json", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "key={key} is unknown",
        "'{key}'",
        "/v1/models?api_key={key_cut_short}&x=1",
        "Authorization: {authorization}",
        "{{'Authorization': '{authorization}', 'Host': 'a'}}",
        '{{"authorization":"{authorization}"}}',
        "(b'authorization', b'{authorization}')",
        "sent {authorization} to vllm-a",
        "401 for {upstream_key}",
        "token {hub_key}",
        "cannot reach postgresql://tollgate:{password}@db.internal:5432/ledger",
        "cannot reach redis://:{password_with_signs}@10.0.0.1:6379/0",
        "rediss://user:{password}@h1,rediss://user:{password}@h2",
        "connect(host=db, password='{password}')",
        '{{"password": "{password}", "user": "tollgate"}}',
        "PGPASSWORD={password} psql",
        "TOLLGATE_UPSTREAM_API_KEY={upstream_key}",
    ],
)
def test_no_secret_reaches_a_line(text, render_json):
    stream = io.StringIO()
    configure("info", json=render_json, stream=stream)
    message = text.format(**SECRETS)
    log = structlog.get_logger("proxy")
    log.info(message)
    log.info(
        "field",
        text=message,
        raw=message.encode(),
        nested={"deep": [{"deeper": (message,)}]},
        failure=ValueError(message),
    )
    logging.getLogger("redis").warning("says %s", message)
    log.error("failed", exc_info=raised(RuntimeError(message)))

    written = stream.getvalue()
    assert [name for name, secret in SECRETS.items() if secret in written or json.dumps(secret)[1:-1] in written] == []
    assert "redacted" in written


@pytest.mark.parametrize(
    "name", ["Authorization", "api_key", "X-API-Key", "password", "key", "token", "messages", "prompt", "body"]
)
def test_what_has_the_name_of_a_secret_or_of_content_is_not_written(stream, name):
    structlog.get_logger("proxy").info("call", **{name: "whatever"}, headers={name: "whatever"})

    assert "whatever" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "listening on http://127.0.0.1:8080/metrics",
        "max_tokens=1024 tokens=15",
        "key_0190f5d27b6e7c3e9d3a was revoked",
        "mail to finance@example.com at 10:30",
        "POST https://upstream:8000/v1/chat/completions took 3 ms",
    ],
)
def test_what_is_no_secret_stays(stream, text):
    structlog.get_logger("proxy").info(text)

    assert lines(stream)[0]["event"] == text


def test_long_and_deep_values_are_cut():
    assert len(str(redact_value("x" * 1_000_000))) < 20_000
    assert len(redact_value(list(range(10_000)))) == 256  # type: ignore[arg-type]
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    assert len(str(redact_value(deep))) < 500


def test_a_value_whose_repr_fails_does_not_take_the_line_with_it():
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    assert redact_value({"value": Broken()}) == {"value": "<Broken>"}


# Repeats.


def record(event: str) -> logging.LogRecord:
    return logging.LogRecord("proxy", logging.ERROR, "", 0, {"event": event}, None, None)


def test_the_same_event_is_written_a_few_times_in_a_period_and_others_are_not_held_back():
    now_s = [0.0]
    repeats = RepeatFilter(clock=lambda: now_s[0])

    assert sum(repeats.filter(record("redis away")) for _ in range(1_000)) == logs.REPEATS_MAX
    assert repeats.filter(record("ledger away"))


def test_the_first_line_of_the_next_period_says_how_many_were_kept_back():
    now_s = [0.0]
    repeats = RepeatFilter(clock=lambda: now_s[0])
    for _ in range(1_000):
        repeats.filter(record("redis away"))

    now_s[0] = logs.REPEATS_PERIOD_S
    first, second = record("redis away"), record("redis away")
    assert repeats.filter(first)
    assert repeats.filter(second)
    assert first.suppressed == 1_000 - logs.REPEATS_MAX
    assert not getattr(second, "suppressed", 0)


def test_what_was_kept_back_is_shown_in_the_line(stream, monkeypatch):
    monkeypatch.setattr(logs, "REPEATS_MAX", 1)
    log = structlog.get_logger("proxy")
    for _ in range(3):
        log.error("redis away")
    monkeypatch.setattr(logs, "REPEATS_PERIOD_S", 0.0)
    log.error("redis away")

    assert [line.get("suppressed") for line in lines(stream)] == [None, 2]


def test_events_without_end_do_not_fill_the_memory():
    repeats = RepeatFilter()
    for number in range(10_000):
        repeats.filter(record(f"event {number}"))

    assert len(repeats._seen) <= 512
