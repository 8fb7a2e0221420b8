"""Calls whose client would rather have less output than a refusal: they get what remains, and are told how much."""

import asyncio
import json
import time

import pytest

from proxy.clock import unix_ms
from tests.support.stack import MODEL, chat, running, write_config

COMPLETIONS = "/v1/completions"
FIT = {"X-RateLimit-Fit": "true"}
LOWERED = "X-RateLimit-Fit"
LARGEST = "X-RateLimit-Fit-Max-Tokens"
HOUR = "output_tokens_hour: 150_000"


def limited(folder, hour=100):
    return write_config(folder, tiers=(HOUR, f"output_tokens_hour: {hour}"))


def sent(stack):
    return json.loads(stack.cluster.seen[-1].body)


async def spend(stack, tokens, **more):
    assert (await stack.ask(chat(f"SIM:tokens={tokens}", max_tokens=tokens, **more)))[0] == 200
    await stack.settled()


# What is lowered, and how it is said


async def test_a_call_that_has_no_room_gets_what_remains_and_is_told_so(tmp_path, store):
    async with running(tmp_path, config=limited(tmp_path), environ=store) as stack:
        await spend(stack, 60)
        status, body, headers = await stack.ask(chat("SIM:tokens=90", max_tokens=90), headers=FIT)
        assert (status, headers[LOWERED], headers[LARGEST]) == (200, "lowered", "40")
        assert sent(stack)["max_tokens"] == 40
        assert body["usage"]["completion_tokens"] == 40
        assert body["choices"][0]["finish_reason"] == "length"
        assert headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == "0"
        await stack.settled()
        _, _, headers = await stack.ask(chat(max_tokens=1))
        assert (headers["X-RateLimit-Bound"], headers[LARGEST]) == ("output_tokens_hour", "0")


async def test_a_stream_says_it_in_its_head(tmp_path, store):
    async with running(tmp_path, config=limited(tmp_path), environ=store) as stack:
        await spend(stack, 60)
        async with stack.post(chat("SIM:tokens=90", max_tokens=90, stream=True), headers=FIT) as answer:
            assert (answer.status, answer.headers[LOWERED], answer.headers[LARGEST]) == (200, "lowered", "40")
            text = await answer.text()
        assert '"finish_reason":"length"' in text.replace(" ", "")
        assert sent(stack)["max_tokens"] == 40


async def test_a_call_that_has_room_is_left_as_it_is_and_is_told_that_it_was_heard(stack):
    body = chat(max_tokens=50)
    status, _, headers = await stack.ask(body, headers=FIT)
    assert (status, headers[LOWERED]) == (200, "untouched")
    assert LARGEST not in headers
    assert stack.cluster.seen[-1].body == json.dumps(body).encode()
    assert "x-ratelimit-fit" not in stack.cluster.seen[-1].headers


@pytest.mark.parametrize("value", [None, "", "false", "1", "yes"])
async def test_who_does_not_ask_for_it_in_so_many_words_is_refused(tmp_path, value):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        await spend(stack, 60)
        headers = {} if value is None else {"X-RateLimit-Fit": value}
        status, _, headers = await stack.ask(chat(max_tokens=90), headers=headers)
        assert (status, headers[LARGEST]) == (429, "40")
        assert LOWERED not in headers


async def test_other_kinds_of_calls_have_nothing_to_be_lowered(stack):
    status, _, headers = await stack.ask(
        {"model": "granite-embedding:278m", "input": "Bonjour"}, headers=FIT, route="/v1/embeddings"
    )
    assert status == 200
    assert LOWERED not in headers


async def test_all_the_texts_of_a_call_fit_together(tmp_path):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        await spend(stack, 10)
        status, body, headers = await stack.ask(chat("SIM:tokens=60", max_tokens=60, n=4), headers=FIT)
        assert (status, headers[LARGEST]) == (200, "22")
        assert body["usage"]["completion_tokens"] == 88


async def test_a_call_that_sets_no_bound_is_lowered_from_the_default(tmp_path):
    async with running(tmp_path, config=limited(tmp_path, 1100)) as stack:
        await spend(stack, 900)
        status, _, headers = await stack.ask(chat("SIM:tokens=2000"), headers=FIT)
        assert (status, headers[LARGEST]) == (200, "200")
        assert sent(stack)["max_tokens"] == 200


@pytest.mark.parametrize(
    "asked", [{"messages": [{"role": "user", "content": "SIM:tokens=90"}]}, {"prompt": "Il était"}]
)
async def test_completions_of_both_kinds_fit_too(tmp_path, asked):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        await spend(stack, 60)
        body = {"model": "gpt-oss:120b", "max_tokens": 90, **asked}
        status, _, headers = await stack.ask(body, headers=FIT, route=COMPLETIONS)
        assert (status, headers[LOWERED], headers[LARGEST]) == (200, "lowered", "40")
        assert sent(stack)["max_tokens"] == 40


async def test_a_call_larger_than_the_whole_limit_fits_as_well(tmp_path, store):
    async with running(tmp_path, config=limited(tmp_path), environ=store) as stack:
        status, _, headers = await stack.ask(chat("SIM:tokens=500", max_completion_tokens=500), headers=FIT)
        assert (status, headers[LARGEST]) == (200, "100")
        assert sent(stack)["max_completion_tokens"] == 100


async def test_at_the_end_of_a_months_money_a_call_gets_what_it_can_pay_for_and_not_a_token_more(tmp_path, store):
    config = write_config(tmp_path, tiers=("monthly_limit: 1000", "monthly_limit: 0.01"))
    async with running(tmp_path, config=config, environ=store) as stack:
        await spend(stack, 500)
        status, _, headers = await stack.ask(chat("SIM:tokens=900", max_tokens=900), headers=FIT)
        assert (status, headers[LOWERED]) == (200, "lowered")
        fit = int(headers[LARGEST])
        assert 0 < fit < 900
        usage = await stack.usage()
        assert {line.usage_type: line.quantity for line in usage.lines}["output"] == 500 + fit
        assert usage.cost_pico <= 10**10


async def test_the_call_log_says_what_a_call_was_lowered_to(tmp_path, monkeypatch):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        lines = []
        monkeypatch.setattr(stack.app.call_log, "write", lines.append)
        await spend(stack, 60)
        await stack.ask(chat("SIM:tokens=90", max_tokens=90), headers=FIT)
        assert [line.fit_max_tokens for line in lines] == [None, 40]


async def test_a_lowered_stream_holds_all_that_it_was_promised_however_short_such_calls_usually_are(tmp_path):
    async with running(tmp_path, config=limited(tmp_path, 1000)) as stack:
        await spend(stack, 960)
        lengths = stack.app.gateway._holds._lengths
        for _ in range(100):
            lengths.note("others", MODEL, 300, 200, streamed=True)
            lengths.note("others", MODEL, 40, 2, streamed=True)
        async with stack.post(chat("SIM:tokens=300", max_tokens=300, stream=True), headers=FIT) as answer:
            assert (answer.headers[LOWERED], answer.headers[LARGEST]) == ("lowered", "40")
            assert answer.headers["X-RateLimit-Remaining-Output-Tokens-Hour"] == "0"
            await answer.read()
        assert sum(line.quantity for line in (await stack.usage()).lines if line.usage_type == "output") == 1000


# Where nothing fits


async def test_below_the_floor_a_call_is_refused_and_told_when_the_floor_fits(tmp_path, monkeypatch):
    config = write_config(
        tmp_path,
        tiers=(HOUR, "output_tokens_hour: 100"),
        proxy=("default_max_tokens:", "fit_tokens_min: 50\n  default_max_tokens:"),
    )
    async with running(tmp_path, config=config) as stack:
        now_ms = [unix_ms()]
        monkeypatch.setattr(stack.app.limiter, "_clock_ms", lambda: now_ms[0])
        await spend(stack, 25)
        now_ms[0] += 600_000
        await spend(stack, 35)
        now_ms[0] += 100_000
        status, _, headers = await stack.ask(chat(max_tokens=90), headers=FIT)
        assert (status, headers[LARGEST], headers["Retry-After"]) == (429, "40", str(3600 - 700))
        assert LOWERED not in headers
        now_ms[0] += (3600 - 700) * 1000
        status, _, headers = await stack.ask(chat("SIM:tokens=90", max_tokens=90), headers=FIT)
        assert (status, headers[LARGEST]) == (200, "65")


async def test_a_call_that_asks_for_less_than_the_floor_is_not_lowered(tmp_path):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        await spend(stack, 95)
        assert (await stack.ask(chat(max_tokens=10), headers=FIT))[0] == 429
        assert (await stack.ask(chat(max_tokens=5), headers=FIT))[0] == 200


async def test_a_call_is_not_lowered_below_what_its_engine_must_write(tmp_path):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        await spend(stack, 60)
        assert (await stack.ask(chat(max_tokens=90, min_tokens=41), headers=FIT))[0] == 429
        assert (await stack.ask(chat(max_tokens=90, min_tokens=40), headers=FIT))[0] == 200


async def test_full_windows_of_requests_let_no_call_in_however_small(tmp_path):
    config = write_config(tmp_path, tiers=("    requests: 1000 #", "    requests: 1 #"))
    async with running(tmp_path, config=config) as stack:
        await spend(stack, 10)
        status, _, headers = await stack.ask(chat(max_tokens=90), headers=FIT)
        assert (status, headers["X-RateLimit-Bound"], headers[LARGEST]) == (429, "requests", "0")


async def test_when_the_input_alone_costs_more_than_the_month_has_nothing_fits_ever(tmp_path):
    config = write_config(tmp_path, tiers=("monthly_limit: 1000", "monthly_limit: 0.000001"))
    async with running(tmp_path, config=config) as stack:
        status, body, headers = await stack.ask(chat(max_tokens=90), headers=FIT)
        assert (status, body["error"]["message"]) == (400, "The request may cost more than your tier's whole limit")
        assert (headers["X-RateLimit-Bound"], headers[LARGEST]) == ("budget_month", "0")


# Together


async def test_calls_at_the_same_time_share_what_remains_and_never_pass_it(tmp_path, store):
    async with running(tmp_path, config=limited(tmp_path, 1000), environ=store) as stack:
        asked = [stack.ask(chat("SIM:tokens=300", max_tokens=300), headers=FIT) for _ in range(20)]
        answers = await asyncio.gather(*asked)
        usage = await stack.usage()
        output = sum(line.quantity for line in usage.lines if line.usage_type == "output")
        served = [headers for status, _, headers in answers if status == 200]
        assert {status for status, _, _ in answers} == {200, 429}
        assert len(served) >= 4
        assert sum(int(headers.get(LARGEST, 300)) for headers in served) == output == 1000


class Faster:
    """A limiter between whose answers others take what remains, so many times, a few tokens each."""

    def __init__(self, limiter, times):
        self._limiter = limiter
        self._times = times
        self.asked = []

    def __getattr__(self, name):
        return getattr(self._limiter, name)

    async def admit(self, account_id, call_id, limits, needs):
        answer = await self._limiter.admit(account_id, call_id, limits, needs)
        self.asked.append(needs)
        if not answer.admitted and self._times:
            self._times -= 1
            taken = await self._limiter.admit(account_id, f"faster-{self._times}", limits, (1, 10, 10, 10))
            assert taken.admitted
        return answer


@pytest.mark.parametrize(("times", "status", "fit"), [(0, 200, "40"), (1, 200, "30"), (2, 429, "20")])
async def test_where_others_are_faster_it_asks_once_more_and_then_gives_up(tmp_path, monkeypatch, times, status, fit):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        await spend(stack, 60)
        faster = Faster(stack.app.gateway._admitting._limiter, times)
        monkeypatch.setattr(stack.app.gateway._admitting, "_limiter", faster)
        got, _, headers = await stack.ask(chat("SIM:tokens=90", max_tokens=90), headers=FIT)
        assert (got, headers[LARGEST]) == (status, fit)
        assert len(faster.asked) == min(2 + times, 3)


# What a refusal says


async def test_a_refusal_says_when_and_how_much_in_numbers_that_hold(tmp_path):
    config = write_config(
        tmp_path,
        tiers=(
            "    requests: 1000 # in any requests_window_s (60 seconds)",
            "    requests: 1\n    requests_window_s: 2",
        ),
    )
    async with running(tmp_path, config=config) as stack:
        await spend(stack, 1)
        status, _, headers = await stack.ask(chat(max_tokens=1))
        asked_s = time.time()
        assert (status, headers["X-RateLimit-Bound"]) == (429, "requests")
        retry_at, whole_at = int(headers["X-RateLimit-Retry-At"]), int(headers["X-RateLimit-Whole-At"])
        assert asked_s < retry_at <= asked_s + 3
        assert whole_at == retry_at == int(headers["X-RateLimit-Reset-Requests"])
        await asyncio.sleep(retry_at - time.time())
        assert (await stack.ask(chat(max_tokens=1)))[0] == 200


async def test_what_a_refusal_says_would_fit_does_and_one_token_more_does_not(tmp_path, store):
    async with running(tmp_path, config=limited(tmp_path), environ=store) as stack:
        await spend(stack, 60)
        _, _, headers = await stack.ask(chat("SIM:tokens=90", max_tokens=90))
        fit = int(headers[LARGEST])
        assert (await stack.ask(chat("SIM:tokens=90", max_tokens=fit + 1)))[0] == 429
        assert (await stack.ask(chat("SIM:tokens=90", max_tokens=fit)))[0] == 200


async def test_a_spent_month_says_when_it_is_over_but_nothing_that_a_client_would_sleep(tmp_path):
    config = write_config(tmp_path, tiers=("monthly_limit: 1000", "monthly_limit: 0.01"))
    async with running(tmp_path, config=config) as stack:
        await spend(stack, 500)
        _, _, headers = await stack.ask(chat(max_tokens=900))
        assert headers["X-RateLimit-Bound"] == "budget_month"
        assert int(headers["X-RateLimit-Whole-At"]) == int(headers["X-RateLimit-Retry-At"]) > time.time()
        assert "Retry-After" not in headers


async def test_a_call_larger_than_the_whole_limit_is_told_the_largest_that_could_ever_fit(tmp_path):
    async with running(tmp_path, config=limited(tmp_path)) as stack:
        await spend(stack, 60)
        status, body, headers = await stack.ask(chat(max_tokens=101, n=2))
        assert (status, body["error"]["param"]) == (400, "max_tokens")
        problem = "may use more than the whole limit output_tokens_hour; at most 50 can ever fit"
        assert body["error"]["message"] == f"Invalid parameter 'max_tokens': {problem}"
        assert headers[LARGEST] == "20"
        assert headers["x-should-retry"] == "false"
        assert "Retry-After" not in headers
