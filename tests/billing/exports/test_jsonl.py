"""``jsonl``, read back by Python's json module."""

import json

from proxy.core.money import euros_text, pico_from_euros
from tests.billing.exports.month import export, fill, total_pico, used


async def test_every_call_is_an_object_and_the_amounts_are_exact(database):
    names, made = await fill(database)
    lines = [json.loads(line) for line in (await export(database, "jsonl")).decode().splitlines()]
    assert [line["call_id"] for line in lines] == [one.call_id for one in made]
    assert sum(pico_from_euros(line["cost_eur"]) for line in lines) == total_pico(made)
    for line, one in zip(lines, made, strict=True):
        assert line["account"] == names[one.account_id]  # no spreadsheet: names as they are
        facts = ("account_id", "month", "day", "key_id", "tier", "endpoint", "model", "tariff_class", "outcome")
        assert [line[fact] for fact in facts] == [getattr(one, fact) for fact in facts]
        assert (line["streamed"], line["upstream"]) == (one.streamed, one.upstream)
        assert line["cost_eur"] == euros_text(one.charge.total_pico)
        assert {
            part["type"]: (part["quantity"], part["source"], pico_from_euros(part["cost_eur"]))
            for part in line["usage"]
        } == {kind.value: values for kind, values in used(one).items()}


async def test_the_same_month_is_the_same_file(database):
    await fill(database)
    assert await export(database, "jsonl") == await export(database, "jsonl")


async def test_of_a_month_without_calls_there_is_no_line(database):
    assert await export(database, "jsonl") == b""
