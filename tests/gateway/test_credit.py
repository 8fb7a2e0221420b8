"""Prepaid euros at the door: tiers that wait for them, accounts that stop with them, and how soon more is felt."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from proxy.core.usage import UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.keys import Keys
from tests.gateway.test_refusals import LIMITED
from tests.ledger.support import PRICES
from tests.support.stack import Stack, chat, running, write_config

EURO = 10**12
OUTPUT_PICO = PRICES[UsageType.OUTPUT]


@pytest.fixture
async def stack(stores, tmp_path) -> AsyncIterator[Stack]:
    """A proxy, once with each kind of stores."""
    async with running(tmp_path, environ=stores) as stack:
        yield stack


async def prepaid(stack, amount_pico, name="prepaid"):
    """Create an account that can spend so much, and return its id and key."""
    database = stack.app.database
    account = await Accounts(database).create(name, "tier1", prepaid_only=True)
    if amount_pico:
        await Credit(database).add(name, amount_pico, "first")
    made = await Keys(database).create(name)
    await stack.app.directory.refresh()
    return account.id, made.token


async def admitted_within(stack, seconds, body, key):
    """Ask until the call is admitted; fail when that takes longer."""
    deadline = time.monotonic() + seconds
    while (await stack.ask(body, key=key))[0] != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def assert_unpaid(answer, bound):
    status, body, headers = answer
    assert (status, body) == (429, {"error": LIMITED})
    assert headers["X-RateLimit-Bound"] == bound
    assert headers["x-should-retry"] == "false"
    assert "Retry-After" not in headers
    assert "retry-after-ms" not in headers
    assert "X-RateLimit-Limit-Requests" in headers


async def test_as_shipped_an_account_without_credit_may_call(stack):
    assert (await stack.ask(chat(max_tokens=5)))[0] == 200


async def test_a_tier_that_requires_it_waits_for_its_purchase_credit(tmp_path):
    config = write_config(
        tmp_path, tiers=("purchase_credit: 200\n", "purchase_credit: 200\n    purchase_required: true\n")
    )
    async with running(tmp_path, config=config) as stack:
        assert_unpaid(await stack.ask(chat(max_tokens=5)), "purchase_credit")
        assert not stack.cluster.seen
        credit = Credit(stack.app.database)
        await credit.add("acme", 199 * EURO, "most of it", "2099-12-31")
        await stack.app.directory.refresh()
        assert_unpaid(await stack.ask(chat(max_tokens=5)), "purchase_credit")
        await credit.add("acme", EURO, "the rest")
        await admitted_within(stack, 1.0, chat(max_tokens=5), stack.key)
        other = await stack.add_account("other", "tier2")
        assert (await stack.ask(chat(max_tokens=5), key=other.token))[0] == 200
        async with stack.session.get(stack.admin_url + "/metrics") as answer:
            shown = await answer.text()
        (count,) = re.findall(r'tollgate_refusals_total{limit="purchase_credit",tier="tier1"} (\d+)', shown)
        assert int(count) >= 2


async def test_a_prepaid_account_stops_at_zero_and_goes_on_within_a_second_of_a_purchase(stack):
    account, key = await prepaid(stack, 1500 * OUTPUT_PICO)
    answers = [await stack.ask(chat(max_tokens=300), key=key) for _ in range(8)]
    statuses = [status for status, _, _ in answers]
    assert 200 in statuses
    assert statuses[-1] == 429
    assert_unpaid(answers[-1], "credit")
    used = await stack.usage(account)
    assert 0 < used.cost_pico <= 1500 * OUTPUT_PICO
    await Credit(stack.app.database).add("prepaid", EURO, "second")
    await admitted_within(stack, 1.0, chat(max_tokens=300), key)


async def test_without_any_credit_nothing_is_served(stack):
    _, key = await prepaid(stack, 0)
    assert_unpaid(await stack.ask(chat(max_tokens=5), key=key), "credit")
    assert not stack.cluster.seen


async def test_a_refusal_tells_what_the_credit_is_still_good_for(stack):
    _, key = await prepaid(stack, 2000 * OUTPUT_PICO)
    status, body, headers = await stack.ask(chat(max_tokens=5000), key=key)
    assert_unpaid((status, body, headers), "credit")
    fits = int(headers["X-RateLimit-Fit-Max-Tokens"])
    assert 0 < fits < 2000
    assert (await stack.ask(chat(max_tokens=fits + 1), key=key))[0] == 429
    assert (await stack.ask(chat(max_tokens=5000), key=key, headers={"X-RateLimit-Fit": "true"}))[0] == 200


async def test_many_calls_at_once_never_spend_more_than_there_is(stack):
    paid = 6000 * OUTPUT_PICO
    account, key = await prepaid(stack, paid)
    statuses = []

    async def caller(number):
        for turn in range(6):
            status, _, _ = await stack.ask(chat(f"call {number} {turn}", max_tokens=200 + 17 * number), key=key)
            statuses.append(status)

    await asyncio.gather(*(caller(number) for number in range(12)))
    used = await stack.usage(account)
    assert used.cost_pico <= paid
    assert used.calls == statuses.count(200) > 0
    assert statuses.count(429) > 0
    assert set(statuses) == {200, 429}


async def test_an_ordinary_account_goes_on_beyond_its_credit_and_the_rest_is_to_be_invoiced(stack):
    await Credit(stack.app.database).add("acme", 1000, "hardly anything")
    await stack.app.directory.refresh()
    for _ in range(2):
        assert (await stack.ask(chat(max_tokens=20)))[0] == 200
    used = await stack.usage()
    facts = await Credit(stack.app.database).facts(stack.account)
    assert sum(facts.used_by_day.values()) == used.cost_pico > 1000


async def look(stack, key=None):
    async with stack.session.get(stack.url + "/v1/usage", headers=stack.auth(key)) as answer:
        assert answer.status == 200
        return json.loads(await answer.read())


async def test_a_customer_sees_what_is_left_as_soon_as_a_call_is_answered(stack):
    assert "credit" not in await look(stack)
    _, key = await prepaid(stack, 200 * EURO)
    before = (await look(stack, key))["credit"]
    assert before == {
        "balance": "200.00",
        "paid": "200.00",
        "drawn": "0.00",
        "lapsed": "0.00",
        "prepaid_only": True,
        "tier_active": True,
    }
    assert (await stack.ask(chat(max_tokens=20), key=key))[0] == 200
    shown = await look(stack, key)
    credit = {name: Decimal(shown["credit"][name]) for name in ("balance", "paid", "drawn")}
    assert credit["drawn"] == Decimal(shown["month"]["total"]) > 0
    assert credit["balance"] == credit["paid"] - credit["drawn"]


async def test_an_account_is_held_to_its_credit_from_one_moment_to_the_next(stack):
    assert (await stack.ask(chat(max_tokens=20)))[0] == 200
    await Accounts(stack.app.database).set_prepaid_only("acme", prepaid_only=True)
    deadline = time.monotonic() + 1.0
    while (await stack.ask(chat(max_tokens=20)))[0] != 429:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await Accounts(stack.app.database).set_prepaid_only("acme", prepaid_only=False)
    await admitted_within(stack, 1.0, chat(max_tokens=20), stack.key)
