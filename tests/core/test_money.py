"""Money is integers, from the text of a price to the text of an amount."""

import ast
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import money
from proxy.core.money import (
    cents_half_up,
    euros_text,
    nano_from_pico_up,
    pico_from_euros,
    unit_price_pico_from_euros_per_million,
)

CORE = Path(money.__file__).parent
MONEY_PATH = ("money.py", "pricing.py", "entries.py", "usage.py", "../settings/forms.py", "../settings/files.py")
AMOUNTS = st.integers(-(10**27) + 1, 10**27 - 1)


def floats_in(source: str) -> list[str]:
    """Return the places where a float could come in: its literals, its name, and true division."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            found.append(f"{node.lineno}: the literal {node.value}")
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            found.append(f"{node.lineno}: true division")
        elif isinstance(node, ast.Name) and node.id == "float":
            found.append(f"{node.lineno}: float")
    return found


@pytest.mark.parametrize("name", MONEY_PATH)
def test_no_float_stands_in_the_money_path(name: str):
    assert floats_in((CORE / name).read_text()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cost = 1.8 * tokens", ["1: the literal 1.8"]),
        ("cost = tokens * 1e-6", ["1: the literal 1e-06"]),
        ("cost = tokens / 10**6", ["1: true division"]),
        ("cost = 1\ncost /= 2", ["2: true division"]),
        ("cost = float(tokens)", ["1: float"]),
        ("def rate(price: float) -> int: ...", ["1: float"]),
        ("cost = tokens * 1_800_000 // 10**6  # a comment with 1.8 / 2", []),
    ],
)
def test_a_float_would_be_found(source: str, expected: list[str]):
    assert floats_in(source) == expected


@pytest.mark.parametrize(
    ("text", "pico"),
    [
        ("0", 0),
        ("1", 10**12),
        ("0.01", 10**10),
        ("-1.5", -1_500_000_000_000),
        ("+2.000000000001", 2_000_000_000_001),
        ("0.100000000000000", 10**11),
        (3, 3 * 10**12),
        (Decimal("1E+3"), 10**15),
        (Decimal("1E-12"), 1),
    ],
)
def test_an_amount_is_parsed_exactly(text, pico):
    assert pico_from_euros(text) == pico


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1,8", "1e3", ".5", "1.", "1_000", "NaN", "inf", "١", "0.0000000000001", "1" * 16, "--1"),
        *(Decimal("NaN"), Decimal("Infinity"), Decimal("1E+400"), Decimal("1E-400"), 10**15),
    ],
)
def test_what_is_no_exact_amount_is_refused(text):
    with pytest.raises(ValueError, match=r"not an amount|finer than"):
        pico_from_euros(text)


@pytest.mark.parametrize("value", [0.1, 1.0, True, None, b"1"])
def test_a_float_is_never_an_amount(value):
    with pytest.raises(TypeError, match="never a"):
        pico_from_euros(value)


@pytest.mark.parametrize(
    ("text", "price"), [("1.80", 1_800_000), ("8", 8_000_000), ("0.000001", 1), ("0", 0), ("1.100000", 1_100_000)]
)
def test_a_price_per_million_is_as_many_pico_euros_a_unit_as_micro_euros(text, price):
    assert unit_price_pico_from_euros_per_million(text) == price
    assert price * 10**6 == pico_from_euros(text)


def test_a_price_finer_than_a_pico_euro_a_unit_is_refused():
    with pytest.raises(ValueError, match="finer than 1e-6"):
        unit_price_pico_from_euros_per_million("1.8000001")


@given(AMOUNTS)
def test_an_amount_survives_being_written_and_parsed(amount_pico: int):
    assert pico_from_euros(euros_text(amount_pico)) == amount_pico


@given(AMOUNTS)
def test_a_text_has_two_to_twelve_decimals_and_no_idle_zeros(amount_pico: int):
    decimals = euros_text(amount_pico).partition(".")[2]
    assert 2 <= len(decimals) <= 12
    assert len(decimals) == 2 or decimals[-1] != "0"


@given(AMOUNTS)
def test_nano_euros_never_fall_below_the_amount(amount_pico: int):
    nano = nano_from_pico_up(amount_pico)
    assert amount_pico <= nano * 1000 < amount_pico + 1000


@given(AMOUNTS)
def test_cents_are_rounded_commercially(amount_pico: int):
    exact = Decimal(amount_pico).scaleb(-10)
    assert cents_half_up(amount_pico) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize(
    ("amount_pico", "cents"),
    [(4_999_999_999, 0), (5_000_000_000, 1), (-5_000_000_000, -1), (-4_999_999_999, 0), (15_000_000_000, 2)],
)
def test_half_a_cent_is_rounded_away_from_zero(amount_pico: int, cents: int):
    assert cents_half_up(amount_pico) == cents
