"""Holds Grafana's files against each other, against the metrics that galley registers, and against PromQL.

    grafana.py ROOT RULES

ROOT is the repository's; RULES is written: the dashboard's expressions as recording rules, for promtool to parse.
"""

import json
import pathlib
import re
import sys

import yaml

import galley

root, rules = map(pathlib.Path, sys.argv[1:])
grafana = root / "docker/grafana"
SUFFIXES = r"(?:_bucket|_sum|_count)?"


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def metrics_of(text):
    return set(re.findall(r"\b(galley_[a-z_]+?)" + SUFFIXES + r"\b", text))


def overlap(a, b):
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


sources = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
uids = {source["uid"] for source in sources}
provider = yaml.safe_load((grafana / "provisioning/dashboards/galley.yaml").read_text())["providers"][0]
compose = yaml.safe_load((root / "docker/compose.yaml").read_text())
mounts = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
assert provider["options"]["path"] in mounts, f"compose mounts no {provider['options']['path']}"

registered = galley.metrics(root)
dashboard = json.loads((grafana / "dashboards/galley.json").read_text())
assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]), "two panels have one id"
for panel in dashboard["panels"]:
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24, f"{panel['title']} is wider than the dashboard"
    for other in dashboard["panels"]:
        if other["id"] > panel["id"]:
            assert not overlap(place, other["gridPos"]), f"{panel['title']} and {other['title']} overlap"
    for source in [panel["datasource"], *(target["datasource"] for target in panel.get("targets", []))]:
        assert source["uid"] in uids, f"{panel['title']}: there is no datasource {source['uid']}"

alerts = (root / "docker/prometheus/alerts.yml").read_text()
scaler = (root / "docker/kubernetes/galley/templates/autoscaling.yaml").read_text()
scaled = metrics_of(" ".join(re.findall(r"query: >-\n(.*)", scaler)))
assert scaled, "the scaler's query was not found"
used = scaled | metrics_of(" ".join([alerts, *(expr for _, expr in expressions(dashboard))]))
unknown = used - registered
assert not unknown, f"galley has no metrics {', '.join(sorted(unknown))}"

known = galley.words(root)
for text in [alerts, *(expr for _, expr in expressions(dashboard))]:
    for label, values in re.findall(r'\b(event|outcome|protocol|stage)(?:=|!=|=~|!~)"([^"]*)"', text):
        for value in values.split("|"):
            assert value in known, f"galley gives {label} no value {value}"

# Refusals take microseconds: percentiles with them in say nothing of who is answered.
ANSWERED = 'outcome=~"ok|partial"'
for text in [alerts, *(expr for _, expr in expressions(dashboard))]:
    for selector in re.findall(r"galley_request_duration_seconds" + SUFFIXES + r"(\{.*?\})?", text):
        assert ANSWERED in selector, f"expected {ANSWERED} in galley_request_duration_seconds{selector}"

parsed = [
    {"record": f"dashboard:{i}", "expr": expr.replace("$__rate_interval", "1m").replace("$recipe", ".*")}
    for i, (_, expr) in enumerate(expressions(dashboard))
]
rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": parsed}]}))
print(f"{len(dashboard['panels'])} panels, {len(parsed)} expressions, {len(used)} of {len(registered)} metrics are watched")
