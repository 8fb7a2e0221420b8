"""Limits at several levels at once: account, key, model and calls in flight; overrides; limits on trial."""

import asyncio
import contextlib
import json
import time

import pytest
import redis.asyncio

from proxy.clock import unix_ms
from proxy.core.levels import Overridable
from proxy.core.money import PICO_PER_EURO
from proxy.ledger.keys import Keys
from proxy.ledger.overrides import Overrides
from tests.support.stack import MODEL, chat, running, write_config

HOUR = Overridable.OUTPUT_TOKENS_HOUR
REQUESTS = Overridable.REQUESTS
IN_FLIGHT = Overridable.CALLS_IN_FLIGHT
SCARCE = "gemma3:27b"
HOUR_LINE = "output_tokens_hour: 150_000"
BOUND = "X-RateLimit-Bound"
SHADOW = "X-RateLimit-Shadow"


def of_model(folder, *lines):
    """A configuration in which one model has limits."""
    head = f"  {SCARCE}: # reads images\n"
    return write_config(folder, models=(head, f"{head}    limits: {{{', '.join(lines)}}}\n"))


async def key_with(stack, **limits):
    """Make a key of the account with limits of its own, and wait until the proxy knows it."""
    numbers = {Overridable(name): number for name, number in limits.items()}
    made = await Keys(stack.app.database).create("acme", limits=numbers)
    await stack.app.directory.refresh()
    return made


async def usage(stack, key=None):
    async with stack.session.get(f"{stack.url}/v1/usage", headers=stack.auth(key)) as answer:
        assert answer.status == 200
        return {(limit["name"], limit.get("model", "")): limit for limit in (await answer.json())["limits"]}


async def ended(stack, others):
    """Wait until but so many calls are in flight, and every entry is in the ledger."""
    async with asyncio.timeout(10):
        while len(stack.app.settlement.in_flight) > others or stack.app.outbox.depth:
            await asyncio.sleep(0.01)


async def call(stack, tokens=10, model=MODEL, key=None):
    """Make a call that produces so many tokens; return its status and headers."""
    before = len(stack.app.settlement.in_flight)
    body = {**chat(f"SIM:tokens={tokens}", max_tokens=tokens), "model": model}
    status, _, headers = await stack.ask(body, key=key)
    await ended(stack, before)
    return status, headers


@contextlib.asynccontextmanager
async def in_flight(stack, model=MODEL, key=None):
    """A call that goes on until the block ends."""
    before = len(stack.app.settlement.in_flight)
    body = {**chat("SIM:stall-after=1", max_tokens=5, stream=True), "model": model}
    async with stack.post(body, key=key) as answer:
        assert answer.status == 200
        await answer.content.readany()
        yield
        answer.close()
    await ended(stack, before)


def used(limits):
    return {name: limit["used"] for (name, _), limit in limits.items()}


# Each level binds, and only where it is


@pytest.mark.parametrize(
    ("limits", "bound", "retries"),
    [
        ({"output_tokens_hour": 1000}, "key_output_tokens_hour", "false"),
        ({"output_tokens_day": 1000}, "key_output_tokens_day", "false"),
        ({"requests": 1}, "key_requests", "true"),
        ({"monthly_limit": PICO_PER_EURO // 100}, "key_budget_month", "false"),
    ],
)
async def test_a_keys_limit_binds_that_key_and_no_other(tmp_path, stores, limits, bound, retries):
    async with running(tmp_path, environ=stores) as stack:
        mine, other = await key_with(stack, **limits), await key_with(stack, **limits)
        assert (await call(stack, 900, key=mine.token))[0] == 200
        status, headers = await call(stack, 900, key=mine.token)
        assert (status, headers[BOUND], headers["x-should-retry"]) == (429, bound, retries)
        assert ("Retry-After" in headers) == ("budget" not in bound)
        assert (await call(stack, 900, key=other.token))[0] == 200
        assert (await call(stack, 900))[0] == 200


@pytest.mark.parametrize(
    ("line", "bound"),
    [
        ("output_tokens_hour: 15", "model_output_tokens_hour"),
        ("output_tokens_day: 15", "model_output_tokens_day"),
        ("requests: 1", "model_requests"),
    ],
)
async def test_a_models_limit_binds_calls_to_it_and_an_account_each(tmp_path, stores, line, bound):
    async with running(tmp_path, config=of_model(tmp_path, line), environ=stores) as stack:
        assert (await call(stack, model=SCARCE))[0] == 200
        status, headers = await call(stack, model=SCARCE)
        assert (status, headers[BOUND]) == (429, bound)
        plain, headers = await call(stack)
        assert plain == 200
        assert "model_" not in headers["RateLimit-Policy"]
        neighbour = await stack.add_account("neighbour", "tier1")
        assert (await call(stack, model=SCARCE, key=neighbour.token))[0] == 200


async def test_calls_at_once_are_limited_and_each_that_ends_makes_room(tmp_path, stores):
    config = write_config(tmp_path, tiers=(HOUR_LINE, f"{HOUR_LINE}\n    calls_in_flight: 2"))
    async with running(tmp_path, config=config, environ=stores) as stack:
        async with in_flight(stack):
            async with in_flight(stack):
                status, headers = await call(stack)
                assert (status, headers[BOUND]) == (429, "calls_in_flight")
                assert (headers["Retry-After"], headers["x-should-retry"]) == ("1", "true")
                assert headers["RateLimit-Policy"].startswith('"calls_in_flight";q=2;qu="concurrent-requests", ')
            assert (await call(stack))[0] == 200
        assert (await call(stack))[0] == 200
        shown = (await usage(stack))["calls_in_flight", ""]
        assert (shown["unit"], shown["limit"], shown["used"], shown["held"]) == ("calls", 2, 0, 0)


async def test_a_key_and_a_model_have_calls_at_once_of_their_own(tmp_path, stores):
    async with running(tmp_path, config=of_model(tmp_path, "calls_in_flight: 1"), environ=stores) as stack:
        mine = await key_with(stack, calls_in_flight=1)
        async with in_flight(stack, key=mine.token):
            assert (await call(stack, key=mine.token))[1][BOUND] == "key_calls_in_flight"
            assert (await call(stack))[0] == 200
        async with in_flight(stack, SCARCE):
            assert (await call(stack, model=SCARCE, key=mine.token))[1][BOUND] == "model_calls_in_flight"
            assert (await call(stack, key=mine.token))[0] == 200


async def test_a_call_whose_upstream_fails_gives_its_place_back(tmp_path, stores):
    async with running(tmp_path, environ=stores) as stack:
        mine = await key_with(stack, calls_in_flight=1)
        for _ in range(2):
            assert (await stack.ask(chat("SIM:status=500", max_tokens=5), key=mine.token))[0] == 500
        assert (await call(stack, key=mine.token))[0] == 200


# All together, or not at all


async def test_a_call_is_taken_from_every_level_and_a_refused_one_from_none(tmp_path, stores):
    lines = ("output_tokens_hour: 100", "requests: 3", "calls_in_flight: 5")
    async with running(tmp_path, config=of_model(tmp_path, *lines), environ=stores) as stack:
        mine = await key_with(
            stack, output_tokens_hour=200, output_tokens_day=300, requests=20, monthly_limit=PICO_PER_EURO
        )
        assert (await call(stack, 60, SCARCE, mine.token))[0] == 200
        taken = await usage(stack, mine.token)
        cost = taken["budget_month", ""]["used"]
        assert used(taken) == {
            "requests": 1, "output_tokens_hour": 60, "output_tokens_day": 60, "budget_month": cost,
            "key_requests": 1, "key_output_tokens_hour": 60, "key_output_tokens_day": 60, "key_budget_month": cost,
            "model_requests": 1, "model_output_tokens_hour": 60, "model_calls_in_flight": 0,
        }  # fmt: skip
        status, headers = await call(stack, 60, SCARCE, mine.token)
        assert (status, headers[BOUND]) == (429, "model_output_tokens_hour")
        after = await usage(stack, mine.token)
        assert used(after) == used(taken)
        assert {limit["held"] for limit in after.values()} == {0, "0.00"}
        assert (await call(stack, 60, MODEL, mine.token))[0] == 200
        last = used(await usage(stack, mine.token))
        assert (last["output_tokens_hour"], last["key_output_tokens_hour"], last["model_output_tokens_hour"]) == (
            120, 120, 60,
        )  # fmt: skip


async def test_many_calls_at_once_never_take_more_than_any_level_has(tmp_path, stores):
    async with running(tmp_path, config=of_model(tmp_path, "requests: 7"), environ=stores) as stack:
        mine = await key_with(stack, requests=10)
        models = [SCARCE, MODEL] * 12
        calls = [stack.ask({**chat("SIM:tokens=1", max_tokens=1), "model": model}, key=mine.token) for model in models]
        answers = await asyncio.gather(*calls)
        served = [model for model, (status, _, _) in zip(models, answers, strict=True) if status == 200]
        assert len(served) == 10
        assert served.count(SCARCE) <= 7
        refused = {headers[BOUND] for status, _, headers in answers if status == 429}
        assert refused <= {"key_requests", "model_requests"}
        await stack.settled()
        assert used(await usage(stack, mine.token))["key_requests"] == 10


async def test_a_need_beyond_a_whole_limit_is_no_matter_of_waiting(tmp_path):
    async with running(tmp_path) as stack:
        mine = await key_with(stack, output_tokens_hour=50)
        status, body, headers = await stack.ask(chat(max_tokens=51), key=mine.token)
        assert (status, body["error"]["param"]) == (400, "max_tokens")
        assert headers["x-should-retry"] == "false"


async def test_usage_says_whose_each_limit_is(tmp_path):
    async with running(tmp_path, config=of_model(tmp_path, "requests: 3", "shadow: [requests]")) as stack:
        mine = await key_with(stack, requests=20)
        shown = await usage(stack, mine.token)
        key, model = shown["key_requests", ""], shown["model_requests", SCARCE]
        assert (key["scope"], key["key"], key["limit"], key["window_seconds"]) == ("key", mine.key.id, 20, 60)
        assert (model["scope"], model["model"], model["limit"], model["mode"]) == ("model", SCARCE, 3, "shadow")
        assert shown["requests", ""]["scope"] == "account"
        assert "key_requests" not in {name for name, _ in await usage(stack)}


async def test_a_key_that_takes_anothers_place_goes_on_where_it_was(tmp_path, stores):
    async with running(tmp_path, environ=stores) as stack:
        mine = await key_with(stack, output_tokens_hour=25)
        assert (await call(stack, key=mine.token))[0] == 200
        new = await Keys(stack.app.database).rotate(mine.key.id, 60_000)
        await stack.app.directory.refresh()
        assert (await call(stack, key=new.token))[0] == 200
        for token in (new.token, mine.token):
            assert (await call(stack, key=token))[1][BOUND] == "key_output_tokens_hour"


# A store that has lost what it knew


async def forget(stack, stores):
    """Take away all that the limiter knows of the account."""
    if not stores:
        stack.app.limiter._accounts.clear()
        return
    async with redis.asyncio.from_url(stores["TOLLGATE_REDIS_URL"]) as client:
        names = [name async for name in client.scan_iter(f"tollgate:*{{{stack.account}}}*")]
        assert names
        await client.delete(*names)


async def test_a_store_that_lost_everything_learns_every_level_again(tmp_path, stores):
    lines = ("output_tokens_hour: 100", "requests: 50")
    async with running(tmp_path, config=of_model(tmp_path, *lines), environ=stores) as stack:
        mine = await key_with(
            stack, output_tokens_hour=200, requests=50, monthly_limit=PICO_PER_EURO, calls_in_flight=1
        )
        other = await key_with(stack, output_tokens_hour=200)
        for tokens, model, token in ((30, SCARCE, mine.token), (20, MODEL, mine.token), (40, SCARCE, other.token)):
            assert (await call(stack, tokens, model, token))[0] == 200
        before = used(await usage(stack, mine.token))
        assert (before["key_output_tokens_hour"], before["model_output_tokens_hour"]) == (50, 70)
        await forget(stack, stores)
        assert used(await usage(stack, mine.token)) == before
        await forget(stack, stores)
        assert (await call(stack, 31, SCARCE, mine.token))[1][BOUND] == "model_output_tokens_hour"
        await forget(stack, stores)
        assert (await call(stack, 151, MODEL, mine.token))[1][BOUND] == "key_output_tokens_hour"
        assert (await call(stack, 30, SCARCE, mine.token))[0] == 200


async def test_a_call_under_way_while_the_store_forgets_counts_once_in_each_level(tmp_path, stores):
    lines = ("output_tokens_hour: 1000",)
    async with running(tmp_path, config=of_model(tmp_path, *lines), environ=stores) as stack:
        mine = await key_with(stack, output_tokens_hour=1000)
        slow = {**chat("SIM:tokens=20 SIM:rate=40", max_tokens=20), "model": SCARCE}
        under_way = asyncio.create_task(stack.ask(slow, key=mine.token))
        while not stack.app.settlement.in_flight:
            await asyncio.sleep(0.01)
        await forget(stack, stores)
        assert (await under_way)[0] == 200
        await stack.settled()
        shown = used(await usage(stack, mine.token))
        assert (shown["key_output_tokens_hour"], shown["model_output_tokens_hour"]) == (20, 20)


async def test_a_limit_that_is_new_finds_what_was_used_before_it(tmp_path, stores):
    async with running(tmp_path, environ=stores) as stack:
        mine = await key_with(stack)
        assert (await call(stack, 30, key=mine.token))[0] == 200
        await Keys(stack.app.database).limit(mine.key.id, {HOUR: 35})
        await stack.app.directory.refresh()
        assert (await call(stack, 6, key=mine.token))[1][BOUND] == "key_output_tokens_hour"
        assert (await call(stack, 5, key=mine.token))[0] == 200


# Overrides


async def override(stack, numbers, lasts_ms=600_000):
    """Give the account other numbers; the proxy learns of it by itself."""
    return await Overrides(stack.app.database).set("acme", numbers, unix_ms() + lasts_ms, "launch", "ada")


async def until(stack, limit, seconds=1.0):
    """Wait until the account's hour is so large."""
    deadline = time.monotonic() + seconds
    while (await stack.ask(chat(max_tokens=1)))[2]["X-RateLimit-Limit-Output-Tokens-Hour"] != str(limit):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_an_override_is_felt_within_a_second_and_its_end_too(tmp_path, stores):
    async with running(tmp_path, environ=stores) as stack:
        (made,) = await override(stack, {HOUR: 300_000})
        await until(stack, 300_000)
        await Overrides(stack.app.database).drop(made.id, "ada")
        await until(stack, 150_000)


async def test_an_override_ends_at_its_instant_by_itself(tmp_path):
    async with running(tmp_path) as stack:
        await override(stack, {HOUR: 300_000}, lasts_ms=1500)
        await stack.app.directory.refresh()
        stack.app.directory.refresh = asyncio.Event().wait  # nothing is learned any more
        await until(stack, 300_000)
        await until(stack, 150_000, seconds=3)


async def test_what_is_unlimited_for_a_while_counts_when_it_is_limited_again(tmp_path, stores):
    config = write_config(tmp_path, tiers=(HOUR_LINE, "output_tokens_hour: 100"))
    async with running(tmp_path, config=config, environ=stores) as stack:
        (made,) = await override(stack, {HOUR: None})
        await stack.app.directory.refresh()
        status, headers = await call(stack, 150)
        assert status == 200
        assert "X-RateLimit-Limit-Output-Tokens-Hour" not in headers
        assert (await usage(stack))["output_tokens_hour", ""]["limit"] is None
        await Overrides(stack.app.database).drop(made.id, "ada")
        await stack.app.directory.refresh()
        assert (await call(stack, 1))[1][BOUND] == "output_tokens_hour"


async def test_every_number_of_a_tier_can_be_another(tmp_path):
    async with running(tmp_path) as stack:
        numbers = {REQUESTS: 7, Overridable.REQUESTS_WINDOW_S: 10, IN_FLIGHT: 3, Overridable.OUTPUT_TOKENS_DAY: 500}
        await override(stack, {**numbers, Overridable.MONTHLY_LIMIT: 2 * PICO_PER_EURO})
        await stack.app.directory.refresh()
        shown = await usage(stack)
        assert (shown["requests", ""]["limit"], shown["requests", ""]["window_seconds"]) == (7, 10)
        assert shown["calls_in_flight", ""]["limit"] == 3
        assert shown["output_tokens_day", ""]["limit"] == 500
        assert shown["budget_month", ""]["limit"] == "2.00"
        assert shown["output_tokens_hour", ""]["limit"] == 150_000


# Limits on trial


async def shadow_refusals(stack, limit):
    async with stack.session.get(f"{stack.admin_url}/metrics") as answer:
        text = await answer.text()
    prefix = f'tollgate_limit_shadow_refusals_total{{limit="{limit}",tier="tier1"}} '
    (line,) = [line for line in text.splitlines() if line.startswith(prefix)]
    return int(line.removeprefix(prefix))


async def test_a_limit_in_shadow_says_what_it_would_have_refused_and_refuses_nothing(tmp_path, stores, capsys):
    config = write_config(tmp_path, tiers=(HOUR_LINE, "output_tokens_hour: 15\n    shadow: [output_tokens_hour]"))
    async with running(tmp_path, config=config, environ=stores) as stack:
        status, headers = await call(stack)
        assert (status, SHADOW in headers) == (200, False)
        status, headers = await call(stack)
        assert (status, headers[SHADOW]) == (200, "output_tokens_hour")
        assert "X-RateLimit-Limit-Output-Tokens-Hour" not in headers
        assert await shadow_refusals(stack, "output_tokens_hour") == 1
        assert await shadow_refusals(stack, "requests") == 0
        shown = (await usage(stack))["output_tokens_hour", ""]
        assert (shown["limit"], shown["used"], shown["remaining"], shown["mode"]) == (15, 20, 0, "shadow")
        assert (await call(stack, 50))[0] == 200  # more than the whole limit, and no 400
        status, _, headers = await stack.ask(chat(temperature=3))
        assert (status, SHADOW in headers) == (400, False)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"ts"')]
    calls = [line.get("shadowed") for line in lines if line["outcome"] == "finished"]
    assert calls == [None, ["output_tokens_hour"], ["output_tokens_hour"]]


async def test_a_stream_says_it_in_its_head(tmp_path):
    config = write_config(tmp_path, tiers=(HOUR_LINE, "output_tokens_hour: 5\n    shadow: [output_tokens_hour]"))
    async with running(tmp_path, config=config) as stack, stack.post(chat(max_tokens=9, stream=True)) as answer:
        assert (answer.status, answer.headers[SHADOW]) == (200, "output_tokens_hour")
        assert "[DONE]" in await answer.text()


@pytest.mark.parametrize(
    ("lines", "shadowed"),
    [
        ("monthly_limit: 0.0001\n    shadow: [monthly_limit]", "budget_month"),
        ("monthly_limit: 1000\n    calls_in_flight: 1\n    shadow: [calls_in_flight]", "calls_in_flight"),
    ],
)
async def test_budgets_and_calls_in_flight_can_be_on_trial(tmp_path, stores, lines, shadowed):
    config = write_config(tmp_path, tiers=("monthly_limit: 1000\n", f"{lines}\n"))
    async with running(tmp_path, config=config, environ=stores) as stack, in_flight(stack):
        status, headers = await call(stack, 40)
        assert (status, headers.get(SHADOW)) == (200, shadowed)


async def test_a_models_limit_can_be_on_trial_while_others_bind(tmp_path, stores):
    lines = ("requests: 1", "output_tokens_hour: 25", "shadow: [requests]")
    async with running(tmp_path, config=of_model(tmp_path, *lines), environ=stores) as stack:
        assert SHADOW not in (await call(stack, model=SCARCE))[1]
        status, headers = await call(stack, model=SCARCE)
        assert (status, headers[SHADOW]) == (200, "model_requests")
        status, headers = await call(stack, model=SCARCE)
        assert (status, headers[BOUND], headers[SHADOW]) == (429, "model_output_tokens_hour", "model_requests")
        assert SHADOW not in (await call(stack))[1]


async def test_taken_out_of_the_shadow_by_a_reload_it_binds_at_once_with_what_it_has_counted(tmp_path, stores):
    trial = "output_tokens_hour: 15\n    shadow: [output_tokens_hour]"
    config = write_config(tmp_path, tiers=(HOUR_LINE, trial))
    async with running(tmp_path, config=config, environ=stores) as stack:
        assert (await call(stack))[0] == 200
        tiers = config / "tiers.yaml"
        tiers.write_text(tiers.read_text().replace(trial, "output_tokens_hour: 15"))
        stack.app.reload()
        status, headers = await call(stack, 6)
        assert (status, headers[BOUND], SHADOW in headers) == (429, "output_tokens_hour", False)
        assert (await call(stack, 5))[0] == 200
        tiers.write_text(tiers.read_text().replace("output_tokens_hour: 15", trial))
        stack.app.reload()
        status, headers = await call(stack, 6)
        assert (status, headers[SHADOW]) == (200, "output_tokens_hour")


async def test_a_models_limit_comes_and_goes_with_a_reload(tmp_path, stores):
    config = of_model(tmp_path, "output_tokens_hour: 15")
    models = config / "models.yaml"
    limited = models.read_text()
    free = limited.replace("    limits: {output_tokens_hour: 15}\n", "")
    models.write_text(free)
    async with running(tmp_path, config=config, environ=stores) as stack:
        assert (await call(stack, model=SCARCE))[0] == 200
        models.write_text(limited)
        stack.app.reload()
        assert (await call(stack, 6, SCARCE))[1][BOUND] == "model_output_tokens_hour"
        models.write_text(free)
        stack.app.reload()
        assert (await call(stack, 6, SCARCE))[0] == 200
