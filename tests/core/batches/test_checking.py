"""A file is sound when each of its lines is, and all of them belong together."""

import json

import pytest
from msgspec.structs import replace

from proxy.core.batches.checking import MISTAKES_MAX, Checked
from proxy.core.batches.objects import Block, LineMistake
from proxy.core.calls.chat import TEMPLATE_TOKENS
from proxy.core.usage import TariffClass, UsageType
from tests.core.batches.support import BOUNDS, CHAT, MODEL, chat_body, check, line, shipped


def lines(count, **more):
    return [line(f"line-{number}", **more) for number in range(count)]


def told(found):
    assert not isinstance(found, Checked)
    return [(each.line, each.code) for each in found]


def test_a_sound_file_is_summed_in_tokens_and_euros_at_batch_prices():
    body = chat_body(max_tokens=100)
    found = check(lines(3, body=body))
    input_max = len(json.dumps(body)) + TEMPLATE_TOKENS
    prices = shipped().prices.versions[0]
    cost = {
        kind: prices.unit_price_pico(MODEL, kind, TariffClass.BATCH) for kind in (UsageType.INPUT, UsageType.OUTPUT)
    }
    assert found.model == MODEL
    assert found.lines == 3
    assert found.tokens_max == 3 * (input_max + 100)
    assert found.cost_max_pico == 3 * (input_max * cost[UsageType.INPUT] + 100 * cost[UsageType.OUTPUT])
    assert cost[UsageType.OUTPUT] == prices.unit_price_pico(MODEL, UsageType.OUTPUT, TariffClass.STANDARD) // 2


def test_blocks_hold_every_line_once_and_their_bytes():
    given = lines(25)
    found = check(given)
    assert [(block.number, block.first_line, block.lines) for block in found.blocks] == [
        (0, 0, 10),
        (1, 10, 10),
        (2, 20, 5),
    ]
    data = b"".join(given)
    for block in found.blocks:
        piece = data[block.first_byte : block.first_byte + block.size_bytes]
        assert piece == b"".join(given[block.first_line : block.first_line + block.lines])


def test_blocks_grow_so_that_processes_share_a_small_batch_and_a_large_one_has_few():
    found = check(lines(2500), bounds=replace(BOUNDS, lines_max=5000, block_lines_max=1024, block_bytes_max=10**9))
    assert [block.lines for block in found.blocks] == [128, 128, 256, 512, 1024, 452]


def test_a_block_takes_no_further_line_once_it_is_large():
    given = lines(6)
    size = len(given[0])
    found = check(given, bounds=replace(BOUNDS, block_bytes_max=2 * size - 1))
    assert [(block.lines, block.first_byte) for block in found.blocks] == [(2, 0), (2, 2 * size), (2, 4 * size)]


def test_the_last_line_needs_no_newline():
    first, last = lines(2)
    found = check([first, last.rstrip(b"\n")])
    assert found.blocks == (Block("batch_1", 0, 0, 2, 0, len(first) + len(last) - 1),)


def test_blank_lines_at_the_end_are_nothing():
    given = lines(10)
    found = check([*given, b"\n", b" \r\n", b""])
    assert (found.lines, len(found.blocks)) == (10, 1)
    assert found.blocks[0].size_bytes == sum(map(len, given))


def test_blank_lines_at_the_end_are_in_no_block():
    given = lines(3)
    found = check([*given, b"\n", b"\n"])
    assert found.blocks == (Block("batch_1", 0, 0, 3, 0, sum(map(len, given))),)


def test_a_blank_line_between_requests_is_a_mistake():
    first, second = lines(2)
    assert told(check([b"\n", first, b"\n", b"\t\n", second])) == [
        (1, "invalid_json_line"),
        (3, "invalid_json_line"),
        (4, "invalid_json_line"),
    ]


@pytest.mark.parametrize("given", [[], [b"\n", b" "]], ids=["nothing", "blank lines"])
def test_an_empty_file_is_refused(given):
    assert check(given) == (LineMistake("empty_file", "The file holds no requests."),)


def test_a_file_of_as_many_lines_as_may_be_is_sound_and_one_more_is_refused():
    assert check(lines(100)).lines == 100
    assert check(lines(101)) == (LineMistake("too_many_tasks", "The file holds more than 100 requests."),)


def test_of_too_many_lines_no_more_are_looked_at():
    assert told(check([*lines(100), b"{", b"{"])) == [(None, "too_many_tasks")]


def test_a_custom_id_is_used_once():
    first, second = lines(2)
    found = check([first, second, first, line("line-1")])
    assert told(found) == [(3, "duplicate_custom_id"), (4, "duplicate_custom_id")]
    assert found[0].message == "The custom_id 'line-0' is that of an earlier line too."
    assert found[0].param == "custom_id"


def test_all_requests_use_one_model_by_whatever_name():
    other = next(model.id for model in shipped().models.values() if CHAT in model.endpoints and model.id != MODEL)
    found = check([*lines(2), line("x", body=chat_body() | {"model": other})])
    message = f"All requests in a batch must use the same model; the first one uses '{MODEL}'."
    assert found == (LineMistake("model_mismatch", message, 3, "body.model"),)
    settings = shipped()
    renamed = replace(settings.terms, models={**settings.terms.models, "alias": settings.models[MODEL]})
    aliased = line("x", body=chat_body() | {"model": "alias"})
    assert check([*lines(2), aliased], settings=replace(settings, terms=renamed)).lines == 3


def test_a_line_that_is_too_long_is_named():
    found = check([*lines(1), 10_001, line("x")])
    assert found == (LineMistake("invalid_request", "This line is longer than 10000 bytes.", 2),)


def test_what_has_no_batch_price_is_in_no_batch():
    settings = shipped()
    version = settings.prices.versions[0]
    prices = {key: price for key, price in version.unit_prices_pico.items() if key[1] is not TariffClass.BATCH}
    free = replace(settings, prices=replace(settings.prices, versions=(replace(version, unit_prices_pico=prices),)))
    assert [(each.code, each.param) for each in check(lines(1), settings=free)] == [("invalid_request", "body.model")]


def test_no_more_mistakes_are_told_than_anybody_reads():
    found = check([b"{\n"] * 200, bounds=replace(BOUNDS, lines_max=1000))
    assert [each.line for each in found] == list(range(1, MISTAKES_MAX + 1))


def test_mistakes_and_too_many_lines_are_told_together():
    found = check([b"{\n", *lines(100)])
    assert told(found) == [(1, "invalid_json_line"), (None, "too_many_tasks")]
