"""docs/operations.md says what there is, and all of it."""

import re
from pathlib import Path

import msgspec
import yaml

from proxy.core.usage import TariffClass, UsageType
from proxy.telemetry.calllog import CallLine
from proxy.telemetry.catalogue import CATALOGUE, COUNTED, WATCHED, Described, Kind, kind_of
from proxy.telemetry.metrics import Metrics
from tests.telemetry.scraped import CHAT, charge, samples

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def row(described: Described) -> str:
    labels = ", ".join(f"`{label}`" for label in described.labels) or "–"
    return f"| `{described.name}` | {described.kind.value} | {labels} | {described.merge.value} | {described.help} |"


def cells(first_column: str) -> list[str]:
    """The first cells of the rows of the table whose heading begins with this word."""
    table = re.search(rf"^\| {first_column} \|.*\n\|[-|]+\n((?:\|.*\n)+)", OPERATIONS, re.MULTILINE)
    assert table, f"there is no table of {first_column}"
    return re.findall(r"^\| `(\w+)`", table[1], re.MULTILINE)


def filled() -> Metrics:
    """Metrics with every family in use."""
    metrics = Metrics(["m"])
    metrics.call_began()
    metrics.call_ended(CHAT, "m", "tier1", 200, "finished", 1.0, 0.1, 0.001)
    for usage_type in UsageType:
        metrics.charged(CHAT, "m", "tier1", charge((usage_type, 1, 1)), TariffClass.STANDARD, "acme")
    metrics.refused("requests", "tier1")
    metrics.error(429, "rate_limit_error")
    metrics.viewed("models", 200)
    metrics.upstream_failed("vllm-a", "timeout")
    metrics.queued("tier1", 0.5, None)
    metrics.queued("tier1", 10.0, "waited")
    for described in WATCHED:
        metrics.watch(described.name, "", lambda: 1, dict.fromkeys(described.labels, "x"))
    return metrics


def test_every_metric_has_its_row_and_every_row_its_metric():
    rows = re.findall(r"^\| `(?:tollgate|process|python)_\w+` \|.*\|$", OPERATIONS, re.MULTILINE)
    metric_rows = [each for each in rows if re.match(r"\| `[a-z_]+` \| (counter|gauge|histogram) ", each)]

    assert metric_rows == [row(described) for described in CATALOGUE.values()]


def test_what_a_scrape_shows_is_what_the_catalogue_says():
    text = filled().render().decode()

    shown = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert shown == {described.name: described.kind.value for described in CATALOGUE.values()}
    assert dict(re.findall(r"^# HELP (tollgate_\w+) (.*)$", text, re.MULTILINE)) == {
        described.name: described.help for described in (*COUNTED, *WATCHED)
    }


def test_every_sample_has_the_labels_that_the_catalogue_says():
    for sample in samples(filled().render()):
        name = re.sub(r"_(bucket|count|sum)$", "", sample.name) if sample.name not in CATALOGUE else sample.name
        labels = sample.labels.keys() - {"le"} if CATALOGUE[name].kind is Kind.HISTOGRAM else sample.labels.keys()
        assert labels == set(CATALOGUE[name].labels), sample.name


def test_names_end_in_what_they_count():
    units = (
        "_total",
        "_seconds",
        "_bytes",
        "_info",
        "_fds",
        "_calls",
        "_entries",
        "_in_flight",
        "_batches",
        "_lines",
        "_files",
    )
    states = {"tollgate_ready", "tollgate_ready_check", "tollgate_limiter_degraded", "tollgate_upstream_suspect"}
    for described in CATALOGUE.values():
        assert described.name.endswith(units) or described.name in states | {"tollgate_holds"}, described.name
        if described.kind is not Kind.HISTOGRAM:
            assert kind_of(described.name) is described.kind, described.name


def test_every_alert_is_documented_and_every_documented_alert_exists():
    rules = yaml.safe_load((ROOT / "grafana/alerts.yml").read_text())
    alerts = [(rule["alert"], rule["labels"]["severity"]) for group in rules["groups"] for rule in group["rules"]]

    assert re.findall(r"^\| `(Tollgate\w+)` \| (\w+) \|", OPERATIONS, re.MULTILINE) == alerts


def test_every_field_of_the_call_log_is_documented():
    assert cells("Field") == ["ts", *(field.name for field in msgspec.structs.fields(CallLine))]
