"""The alert rules and the dashboard: Prometheus and Grafana can read them, and they query only existing metrics."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from config.local.processes import PATIENCE
from email_integration.metrics import labels
from email_integration.outcomes.causes import REFUSED_LOGIN

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "mail.json"

#: Prints the names and labels of all metrics. A separate process, because a process creates each metric only once.
_METRICS = """
import json, django
from unittest import mock
django.setup()
from prometheus_client.metrics import MetricWrapperBase
from email_integration.queue.waiting import Backlog
from email_integration.metrics import counters, ledger

found = {}
for metric in vars(counters.Counters()).values():
    if isinstance(metric, MetricWrapperBase):
        names = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}[metric._type]
        found |= {metric._name + name: [*metric._labelnames, *(["le"] if name == "_bucket" else [])] for name in names}
nothing = Backlog(unfinished={}, held=0, oldest_due={}, oldest_deferred={})
with (
    mock.patch.object(ledger, "backlog", lambda: nothing),
    mock.patch.object(ledger, "CircuitBreaker"),
    mock.patch.object(ledger, "SendingPause"),
    mock.patch.object(ledger, "_name", lambda: "a"),
    mock.patch.object(ledger, "_since_sweep", lambda: 1.0),
):
    ledger.CircuitBreaker.objects.using().count.return_value = 0
    found |= {sample.name: list(sample.labels) for one in ledger._Ledger().collect() for sample in one.samples}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def metrics() -> dict[str, list[str]]:
    """The labels of every metric, by its name."""
    ran = subprocess.run(
        [sys.executable, "-c", _METRICS],
        cwd=ROOT,
        env=dict(os.environ),
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    found: dict[str, list[str]] = json.loads(ran.stdout)
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def questions() -> list[str]:
    """Return all Prometheus queries."""
    asked = [rule["expr"] for rule in rules()]
    return asked + [target["expr"] for panel in panels() for target in panel["targets"]]


def selectors(tree: Any) -> Iterator[Any]:
    """Yield every metric selector in a query."""
    if isinstance(tree, promql_parser.VectorSelector):
        yield tree
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        part = getattr(tree, name, None)
        if part is not None:
            yield from selectors(part)
    for part in getattr(tree, "args", None) or ():
        yield from selectors(part)


def parsed(question: str) -> Any:
    return promql_parser.parse(question.replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("question", questions())
def test_a_question_asks_for_metrics_and_labels_that_there_are(question: str, metrics: dict[str, list[str]]) -> None:
    """PromQL's parser accepts the query, and it compares and groups only by names and labels of this app."""
    found = list(selectors(parsed(question)))
    assert len(found) == question.count("email_integration_")
    grouped = {name.strip() for part in re.findall(r"by \(([^)]*)\)", question) for name in part.split(",")}
    for selector in found:
        compared = {matcher.name for matcher in selector.matchers.matchers}
        assert selector.name in metrics
        assert compared | grouped <= set(metrics[selector.name])


def test_reasons_that_are_asked_for_are_ours() -> None:
    """A cause with a wrong name would never raise an alert."""
    asked = [
        word for text in questions() for part in re.findall(r'reason=~?"([^"]*)"', text) for word in part.split("|")
    ]
    assert asked
    assert set(asked) <= labels.REASONS


def test_a_refused_login_alarms_whatever_its_cause() -> None:
    """The causes are those of the app's own alert."""
    [rule] = [rule for rule in rules() if rule["alert"] == "MailLoginRefused"]
    [causes] = re.findall(r'reason=~"([^"]*)"', rule["expr"])
    assert set(causes.split("|")) == {cause.value for cause in REFUSED_LOGIN}


def test_every_metric_is_in_the_guide(metrics: dict[str, list[str]]) -> None:
    """docs/monitoring.md omits the prefix and a histogram's suffixes."""
    guide = (ROOT / "docs" / "monitoring.md").read_text()
    for name in metrics:
        short = re.sub(r"_(bucket|count|sum)$", "", name.removeprefix("email_integration_"))
        assert f"`{short}`" in guide, short


def test_an_alert_says_what_is_wrong() -> None:
    """Each has a unique name, a severity, a summary and a description, whose labels come from the query."""
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert set(rule["annotations"]) == {"summary", "description"}
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"])


def test_no_panel_covers_another() -> None:
    """Each has its own place on Grafana's 24 columns, and its own number."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())
