"""Everything that the dashboard and the alert rules ask of Prometheus."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARD_FILE = ROOT / "grafana/dashboards/tollgate.json"
ALERTS_FILE = ROOT / "grafana/alerts.yml"
DASHBOARD = json.loads(DASHBOARD_FILE.read_text())

GRAFANA_VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "60s",
    "$model": ".*",
    "$tier": ".*",
}
_COMPARISON = re.compile(r"\s*(?:[<>]=?|[=!]=)\s*[\d.]+\s*$")


class Query(NamedTuple):
    """One query: where it stands, and what it asks once Grafana has filled it in."""

    place: str
    expression: str


def panels() -> list[dict]:
    """Every panel but the rows."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_queries() -> Iterator[Query]:
    """The queries of every panel, with Grafana's variables at "All"."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, text in GRAFANA_VARIABLES.items():
                expression = expression.replace(variable, text)
            yield Query(f"{panel['title']} {target['refId']}", expression)


def alert_queries() -> Iterator[Query]:
    """What each alert looks at: its expression without the comparison, which filters away what is well."""
    for group in yaml.safe_load(ALERTS_FILE.read_text())["groups"]:
        for rule in group["rules"]:
            expression, comparisons = _COMPARISON.subn("", rule["expr"].strip())
            assert comparisons == 1, f"{rule['alert']} does not end in a comparison with a number"
            yield Query(rule["alert"], expression)


def annotation_queries() -> Iterator[Query]:
    """What the annotations look at, likewise."""
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            yield Query(annotation["name"], _COMPARISON.sub("", annotation["expr"]))


def variable_queries() -> Iterator[tuple[str, str]]:
    """(metric, label) of every variable that is asked of Prometheus."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
