"""A charge is the exact product of usage and price, whatever is thrown at it."""

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from proxy.core.money import PICO_PER_EURO
from proxy.core.pricing import PriceBook, PriceVersion, UnpricedError
from proxy.core.usage import Quantity, Source, TariffClass, Usage, UsageType
from proxy.settings.loader import load_settings

ROOT = Path(__file__).parents[2]
NOW_MS = 1_793_487_600_000
CALLS = 1_000_000
SAMPLE_EVERY = 50
MODELS = ("gpt-oss:120b", "gemma3:27b", "DeepSeek-OCR")
PER_MILLION = frozenset(UsageType) - {UsageType.AUDIO_MINUTES}

MORE_VERSIONS = """
  - id: "2026-03"
    effective_from: 2026-03-29T02:00:00+01:00
    standard: {input: 1.799999, cached_input: 0.179999, output: 8.000001, reasoning: 7.999999, rerank: 3.333333,
               audio_minutes: 0.012345678901}
    batch: {input: 0.900001, cached_input: 0.090001, output: 4.000001, reasoning: 3.999999, rerank: 0.1,
            audio_minutes: 0.000000000001}
    models:
      gpt-oss:120b: {standard: {input: 0.15, output: 0.600001}, batch: {input: 0.075}}
      gemma3:27b: {standard: {reasoning: 0, audio_minutes: 1}}
  - id: "2026-07"
    effective_from: 2026-07-01T00:00:00Z
    standard: {input: 2, cached_input: 0.2, output: 9.1, reasoning: 9.1, rerank: 4.7, audio_minutes: 0.011}
    batch: {input: 1, cached_input: 0.1, output: 4.55, reasoning: 4.55, rerank: 2.35, audio_minutes: 0.0055}
    models:
      DeepSeek-OCR: {standard: {output: 123456.789012}, batch: {output: 61728.394506}}
"""


class DecimalTexts(yaml.SafeLoader):
    """Reads every number as the text that was written: the test's own way from the file to a fraction."""


DecimalTexts.yaml_implicit_resolvers = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configuration with two more price versions and prices of single models."""
    folder = tmp_path_factory.mktemp("config")
    for path in (ROOT / "config").glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    with (folder / "prices.yaml").open("a") as file:
        file.write(MORE_VERSIONS)
    return folder


@pytest.fixture(scope="module")
def book(folder: Path) -> PriceBook:
    return load_settings(folder, {}, now_ms=NOW_MS).prices


@pytest.fixture(scope="module")
def euros(folder: Path) -> dict[tuple[str, str, UsageType, TariffClass], Fraction]:
    """Euros per unit by (version, model, usage type, class), as fractions of what stands in the file."""
    prices = {}
    for version in yaml.load((folder / "prices.yaml").read_text(), Loader=DecimalTexts)["versions"]:
        for model in MODELS:
            for tariff in TariffClass:
                own = version.get("models", {}).get(model, {}).get(tariff.value, {})
                for kind, text in (version[tariff.value] | own).items():
                    unit = Fraction(1, 10**6) if UsageType(kind) in PER_MILLION else Fraction(1)
                    prices[version["id"], model, UsageType(kind), tariff] = Fraction(text) * unit
    return prices


def test_a_million_random_calls_cost_exactly_what_the_prices_say(book: PriceBook, euros):
    draw = random.Random(2026)
    random_amount = draw.getrandbits
    kinds = {
        (version.id, tariff): [kind for kind in UsageType if (version.id, MODELS[0], kind, tariff) in euros]
        for version in book.versions
        for tariff in TariffClass
    }
    assert {len(choice) for choice in kinds.values()} == {4, 6}
    cases = [
        (version, model, tariff, kinds[version.id, tariff])
        for version in book.versions
        for model in MODELS
        for tariff in TariffClass
    ]
    amounts: Counter[tuple[str, str, UsageType, TariffClass]] = Counter()
    total_pico = 0
    for number in range(CALLS):
        version, model, tariff, choice = cases[number % len(cases)]
        bits = random_amount(64)
        first, second = choice[bits % len(choice)], choice[(bits >> 8) % len(choice)]
        quantities = [Quantity(first, (bits >> 16) & 0x1FFFF)]
        if second is not first:
            quantities.append(Quantity(second, bits >> 46))
        charge = version.rate(model, Usage(tuple(quantities)), tariff)
        total_pico += charge.total_pico
        for quantity in quantities:
            amounts[version.id, model, quantity.type, tariff] += quantity.amount
        if number % SAMPLE_EVERY == 0:
            cost = sum(euros[version.id, model, one.type, tariff] * one.amount for one in quantities)
            assert Fraction(charge.total_pico, PICO_PER_EURO) == cost
            assert charge.total_pico == sum(line.cost_pico for line in charge.lines)
    assert set(amounts) == set(euros)
    assert Fraction(total_pico, PICO_PER_EURO) == sum(euros[key] * amount for key, amount in amounts.items())


def test_the_documented_example_costs_what_it_must(book: PriceBook):
    usage = Usage((Quantity(UsageType.INPUT, 15), Quantity(UsageType.OUTPUT, 42)))
    charge = book.versions[0].rate("gpt-oss:120b", usage, TariffClass.STANDARD)
    assert charge.total_pico == 363_000_000
    assert [(line.amount, line.unit_price_pico, line.cost_pico) for line in charge.lines] == [
        (15, 1_800_000, 27_000_000),
        (42, 8_000_000, 336_000_000),
    ]
    assert charge.price_version == book.versions[0].id


def test_a_line_says_where_its_amount_comes_from(book: PriceBook):
    usage = Usage((Quantity(UsageType.OUTPUT, 1, Source.ESTIMATED),))
    (line,) = book.versions[0].rate("gpt-oss:120b", usage, TariffClass.BATCH).lines
    assert (line.source, line.cost_pico) == (Source.ESTIMATED, 4_000_000)


def test_no_usage_costs_nothing(book: PriceBook):
    charge = book.versions[0].rate("gpt-oss:120b", Usage(), TariffClass.STANDARD)
    assert (charge.lines, charge.total_pico) == ((), 0)


def test_a_version_holds_from_its_very_instant_until_the_next(book: PriceBook):
    first, second, third = book.versions
    assert book.version_at(second.effective_from_ms - 1) is first
    assert book.version_at(second.effective_from_ms) is second
    assert book.version_at(third.effective_from_ms - 1) is second
    assert book.version_at(third.effective_from_ms) is third


def test_a_time_before_the_first_version_has_no_price(book: PriceBook):
    with pytest.raises(UnpricedError, match="no price version is in force yet"):
        book.version_at(book.versions[0].effective_from_ms - 1)


def test_a_usage_type_without_a_batch_price_is_refused_and_not_free(book: PriceBook):
    usage = Usage((Quantity(UsageType.AUDIO_MINUTES, 1),))
    with pytest.raises(UnpricedError, match="no batch price for audio_minutes"):
        book.versions[0].rate("any", usage, TariffClass.BATCH)


@pytest.mark.parametrize("kind", [UsageType.INPUT, UsageType.CACHED_INPUT, UsageType.OUTPUT, UsageType.REASONING])
def test_tokens_with_a_published_batch_price_never_cost_the_standard_one_for_want_of_it(kind: UsageType):
    version = PriceVersion("v", 0, {(kind, TariffClass.STANDARD): 8})
    with pytest.raises(UnpricedError, match=f"no batch price for {kind}"):
        version.unit_price_pico("any", kind, TariffClass.BATCH)


def test_rerank_in_a_batch_costs_the_standard_price_until_a_version_gives_it_one(book: PriceBook):
    shipped, priced, _ = book.versions
    rerank, standard, batch = UsageType.RERANK, TariffClass.STANDARD, TariffClass.BATCH
    (line,) = shipped.rate("any", Usage((Quantity(rerank, 3),)), batch).lines
    assert (line.unit_price_pico, line.cost_pico) == (4_000_000, 12_000_000)
    assert priced.unit_price_pico("any", rerank, batch) == 100_000
    own = PriceVersion("v", 0, shipped.unit_prices_pico, {("m", rerank, standard): 3})
    assert own.unit_price_pico("m", rerank, batch) == 3
    both = PriceVersion("v", 0, shipped.unit_prices_pico | {(rerank, batch): 2}, own.model_prices_pico)
    assert both.unit_price_pico("m", rerank, batch) == 2


def test_a_model_price_wins_even_when_it_is_zero(book: PriceBook):
    assert book.versions[1].unit_price_pico("gemma3:27b", UsageType.REASONING, TariffClass.STANDARD) == 0
