"""Lines of batches stand apart wherever usage is told, and are in budgets and in no window."""

from fractions import Fraction

import aiohttp
import pytest

from proxy.batching.queue import QueueWatch
from proxy.clock import unix_ms
from proxy.core.usage import TariffClass
from proxy.ledger.batches.overview import Depth, Overview
from proxy.ledger.errors import LedgerUnavailableError
from proxy.ledger.totals import Totals
from proxy.reconciling.findings import Status, Threshold
from proxy.reconciling.metrics import compare_metrics, read_process
from proxy.reconciling.scraping import Scrape
from tests.batching.support import chat_line, create, ended, results
from tests.support.stack import MODEL, Stack, chat

LINES = 12


async def view(stack: Stack, path: str) -> dict:
    async with stack.session.get(stack.url + path, headers=stack.auth()) as answer:
        assert answer.status == 200
        return await answer.json()


async def scrape(stack: Stack) -> Scrape:
    async with aiohttp.ClientSession() as session, session.get(f"{stack.admin_url}/metrics") as answer:
        return Scrape(await answer.text())


async def served(stack: Stack):
    """One batch and one call; the call's answer and the batch."""
    batch = await ended(stack, await create(stack, [chat_line(number, max_tokens=7) for number in range(LINES)]))
    status, answer, _ = await stack.ask(chat("Bonjour", max_tokens=7))
    assert status == 200
    await stack.settled()
    return batch, answer["usage"]


async def test_a_customer_sees_lines_apart_and_no_window_has_any(stack):
    batch, call = await served(stack)
    usage = await view(stack, "/v1/usage")
    lines = {(line["class"], line["type"]): line for line in usage["month"]["lines"]}
    assert usage["month"]["calls"] == LINES + 1
    assert lines["standard", "output"]["quantity"] == call["completion_tokens"]
    quantity = lines["batch", "output"]["quantity"]
    assert quantity > call["completion_tokens"]
    assert Fraction(lines["batch", "output"]["amount"]) == Fraction(quantity * 4, 1_000_000)
    limits = {limit["name"]: limit for limit in usage["limits"]}
    assert limits["requests"]["used"] == 1
    for name in ("output_tokens_hour", "output_tokens_day"):
        assert (limits[name]["used"], limits[name]["held"]) == (call["completion_tokens"], 0)
    assert limits["budget_month"]["used"] == usage["month"]["total"]
    (one, *_), _ = await results(stack, batch)
    receipt = await view(stack, f"/v1/usage/calls/{one['response']['request_id']}")
    assert (receipt["class"], receipt["created"]) == ("batch", batch.created_ms // 1000)
    prices = {line["type"]: (line["unit_price"], line["unit_price_per"]) for line in receipt["lines"]}
    assert prices["output"] == ("4.00", 1_000_000)


async def test_metrics_count_lines_in_their_class_and_agree_with_the_ledger(stack):
    batch, call = await served(stack)
    found = await scrape(stack)
    charged = {labels["class"]: amount for labels, amount in found.counted("tollgate_charged_calls_total")}
    assert charged == {"standard": 1, "batch": LINES}
    tokens = {
        labels["class"]: amount
        for labels, amount in found.counted("tollgate_tokens_total")
        if labels["type"] == "output" and labels["model"] == MODEL and labels["tier"] == batch.tier
    }
    assert tokens["standard"] == call["completion_tokens"]
    entries = [entry for entry in await stack.entries() if entry.tariff_class is TariffClass.BATCH]
    assert tokens["batch"] == sum(
        line.amount for e in entries for line in e.charge.lines if line.usage_type == "output"
    )
    assert found.total("tollgate_calls_total") == 1
    ended_by = {labels["status"]: amount for labels, amount in found.counted("tollgate_batch_lines_total")}
    assert ended_by == {"completed": LINES, "failed": 0}
    assert found.total("tollgate_batch_in_flight_lines") == 0

    async def look():
        return [read_process(stack.admin_url, await scrape(stack))]

    totals = Totals(stack.app.database)
    finding = await compare_metrics(look, totals.served_since, Threshold(), all_given=True)
    assert (finding.status, finding.drifts) == (Status.AGREES, ())
    assert {each.tariff_class for each in (await totals.served_since([0]))[0]} == {*TariffClass}


async def test_how_much_there_is_to_do_is_shown_and_left_out_while_nobody_knows(stack, monkeypatch):
    await served(stack)
    queue = stack.app.batch_work.queue
    await queue.look()
    found = await scrape(stack)
    assert {
        labels["status"]: amount for labels, amount in found.counted("tollgate_unfinished_batches")
    } == dict.fromkeys(("validating", "in_progress", "finalizing", "cancelling"), 0)
    waiting = {labels["model"]: amount for labels, amount in found.counted("tollgate_batch_waiting_lines")}
    assert set(waiting.values()) == {0}
    assert MODEL in waiting
    queue.seen = Depth({"in_progress": 2}, {MODEL: 7, "a model of the past": 1}, unix_ms() - 90_000)
    found = await scrape(stack)
    waiting = {labels["model"]: amount for labels, amount in found.counted("tollgate_batch_waiting_lines")}
    assert (waiting[MODEL], waiting["a model of the past"]) == (7, 1)
    assert 90 <= found.total("tollgate_batch_oldest_age_seconds") < 120
    queue.seen = None
    found = await scrape(stack)
    names = ("tollgate_unfinished_batches", "tollgate_batch_waiting_lines", "tollgate_batch_oldest_age_seconds")
    assert not any(list(found.counted(name)) for name in names)


@pytest.mark.parametrize("failure", [LedgerUnavailableError("away"), RuntimeError("a bug")])
async def test_a_look_that_fails_is_no_end_of_looking(failure):
    told = []

    class Away(Overview):
        def __init__(self) -> None:
            pass

        async def depth(self) -> Depth:
            raise failure

    queue = QueueWatch(Away(), unix_ms, lambda where, exc: told.append((where, exc)))
    queue.seen = Depth({}, {}, None)
    await queue.look()
    assert (queue.seen, queue.batches(), queue.lines(["m"]), queue.oldest_age_s()) == (None, {}, {}, None)
    assert told == ([] if isinstance(failure, LedgerUnavailableError) else [("batch queue", failure)])
