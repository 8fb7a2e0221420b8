"""What finance reads of a drift: which account and model, what the entries say, what was found, and by how much."""

import io

from rich.console import Console

from proxy.cli.reconcile_text import Outcome, print_outcome
from proxy.reconciling.findings import Difference, Finding, Source, Span, Status, Subject, Unit

MODEL = "nvidia/llama-3.3-nemotron-super-49b-v1.5-instruct-fp8"
SUBJECT = Subject(
    account="a-customer-with-a-very-long-name",
    period="2026-10-31",
    place="rollups_daily",
    model=MODEL,
    usage_type="cached_input",
    tariff_class="standard",
    price_version="2026-10b",
)


def told(width: int, *differences: Difference, rows: int = 50) -> str:
    finding = Finding(Source.ROLLUPS, Status.DRIFTS, 12, differences, len(differences))
    screen = io.StringIO()
    print_outcome(Console(file=screen, width=width), Outcome((finding,), None, "claire", 0), rows)
    return screen.getvalue()


def cells(text: str) -> list[str]:
    """What each column of the first table says, without where its lines break."""
    lines = text.partition("└")[0].splitlines()
    rows = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    return ["".join(cell.strip() for cell in column) for column in zip(*rows, strict=True)]


def test_nothing_of_a_drift_is_cut_on_a_narrow_terminal():
    euros = Difference(SUBJECT, Unit.PICO, Span.exactly(12_345_678_901_234_567), Span.exactly(10**12), "because")
    text = told(80, euros)
    assert "…" not in text
    account, what, numbers, drift = (cell.replace(" ", "") for cell in cells(text))
    assert account == "a-customer-with-a-very-long-name2026-10-31"
    assert what == f"rollups:rollups_daily{MODEL}cached_input,standard,2026-10bbecause"
    assert numbers == "12345.678901234567€1.00€"
    assert drift == "-12344.678901234567€"


def test_what_lies_between_two_numbers_is_told_as_such():
    tokens = Difference(Subject(place="vllm-1"), Unit.UNITS, Span(1_000, 1_010), Span.exactly(1_025))
    assert cells(told(80, tokens)) == ["", "rollups: vllm-1", "1,000 units – 1,010 units1,025 units", "+15 units"]


def test_long_lists_are_cut_unless_all_is_asked_for():
    many = [Difference(SUBJECT, Unit.CALLS, Span.exactly(0), Span.exactly(n)) for n in range(1, 4)]
    assert "and 1 more (--rows 0 shows all)" in told(120, *many, rows=2)
    assert "more (--rows" not in told(120, *many, rows=0)
