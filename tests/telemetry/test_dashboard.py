"""Every panel and every alert has something to show: a real Prometheus is asked, while calls go on."""

import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from proxy.telemetry.catalogue import CATALOGUE
from tests.telemetry.prometheus import Prometheus, running_prometheus
from tests.telemetry.queries import (
    ALERTS_FILE,
    DASHBOARD,
    ROOT,
    Query,
    alert_queries,
    annotation_queries,
    dashboard_queries,
    panels,
    variable_queries,
)
from tests.telemetry.target import running_target

SCRAPES_NEEDED = 4
SIGNS_OF_LOAD = (
    'tollgate_calls_total{status="429"}',
    'tollgate_calls_total{status="404"}',
    "tollgate_time_to_first_token_seconds_count",
    "tollgate_account_euros_total",
    "tollgate_estimated_tokens_total",
    'tollgate_tokens_total{class="batch"}',
    'tollgate_batch_lines_total{status="failed"} > 0',
)
"""Series that are there only when calls of every kind have been made."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has watched a Tollgate under calls for some scrapes, and goes on watching it."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with running_target(folder) as port, running_prometheus(folder, port, ALERTS_FILE) as server:
        for sign in SIGNS_OF_LOAD:
            server.wait_for(f"count_over_time(({sign})[1m:1s]) >= {SCRAPES_NEEDED}", 30)
        yield server


@pytest.mark.parametrize(
    "query", [*dashboard_queries(), *annotation_queries(), *alert_queries()], ids=lambda query: query.place
)
def test_a_query_has_an_answer_under_load(prometheus: Prometheus, query: Query) -> None:
    values = prometheus.query(query.expression)

    assert values, f"no series: {query.expression}"
    assert not all(math.isnan(value) for value in values), f"only NaN: {query.expression}"


@pytest.mark.parametrize(("metric", "label"), list(variable_queries()))
def test_a_variable_has_values_to_choose_from(prometheus: Prometheus, metric: str, label: str) -> None:
    assert prometheus.label_values(metric, label)


def test_prometheus_itself_takes_the_alert_rules(prometheus: Prometheus) -> None:
    assert prometheus.query('up{job="tollgate"}') == [1]
    # What is evaluated leaves a series of its own; a healthy Tollgate that is asked every second is not down.
    assert prometheus.query('ALERTS{alertname="TollgateDown"}') == []


def test_every_metric_of_a_real_tollgate_is_in_the_catalogue(prometheus: Prometheus) -> None:
    names = prometheus.label_values('{job="tollgate", __name__=~"(tollgate|process|python)_.*"}', "__name__")

    families = {re.sub(r"_(bucket|count|sum)$", "", name) if name not in CATALOGUE else name for name in names}
    assert families <= CATALOGUE.keys()
    # Audio is not among the calls, a single process starts no workers, and no upstream is full.
    assert {name for name in CATALOGUE.keys() - families if "audio" not in name} == {
        "tollgate_worker_restarts_total",
        "tollgate_queue_wait_seconds",
        "tollgate_queue_refusals_total",
    }


def test_a_query_that_is_no_promql_is_not_taken_for_an_answer(prometheus: Prometheus) -> None:
    with pytest.raises(ValueError, match="parse error"):
        prometheus.query("sum(rate(tollgate_calls_total[)")


# What needs no Prometheus.


def test_no_panel_lies_over_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_every_panel_has_a_title_a_description_a_unit_and_the_chosen_data_source() -> None:
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_ids_and_titles_are_unique() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    titles = [panel["title"] for panel in panels()]
    assert sorted(titles) == sorted(set(titles))


def test_every_query_is_about_us() -> None:
    for query in (*dashboard_queries(), *annotation_queries()):
        metrics_of_others = ("process_", "up{")
        if any(word in query.expression for word in metrics_of_others):
            assert 'job="tollgate"' in query.expression, query.place
        assert "$" not in query.expression, f"{query.place} uses a variable that the test does not fill in"


def test_every_alert_says_what_to_do_and_how_bad_it_is() -> None:
    for group in yaml.safe_load(ALERTS_FILE.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]
            assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]


@pytest.mark.parametrize(
    "check",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_is_content(check: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *check], cwd=ROOT / "grafana", capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_shown_to_fire_and_to_keep_quiet() -> None:
    shown = yaml.safe_load((ROOT / "grafana/alerts_test.yml").read_text())["tests"]
    checks = [check for test in shown for check in test["alert_rule_test"]]
    alerts = {query.place for query in alert_queries()}

    assert {check["alertname"] for check in checks if check.get("exp_alerts")} == alerts
    assert {check["alertname"] for check in shown[0]["alert_rule_test"] if not check.get("exp_alerts")} == alerts


def test_provisioning_points_at_what_there_is() -> None:
    folder = ROOT / "grafana/provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards/tollgate.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]

    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards/tollgate"
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == "15s"
