"""Summarises a results-summary.jsonl by a file of rules, as SuperBench's `sb result summary` does, whose package is not on PyPI.

    python3 -m venv .venv && .venv/bin/pip install pyyaml
    .venv/bin/python bench-results/peers/superbench_summary.py --data-file FOLDER/results-summary.jsonl \\
        --rule-file bench-results/peers/superbench_rules.yaml > results-summary.md
    .venv/bin/python bench-results/peers/superbench_summary.py --self-test

A rule has `categories`, a heading; `metrics`, names or regular expressions that are looked for in them, of which what stands before the
first `/` or `:` has to be a benchmark's name as it is; `statistics`: count, max, mean, min, std and p1 to p99 over the nodes; and maybe
`aggregate`: true puts ranks (`:0`) together, an expression what its groups hold. A metric that no node has is no row; a rule without
metrics has empty ones, so that it is seen.
"""

import argparse
import json
import math
import re
import statistics
import sys

DIGITS = 2  # as `sb result summary --decimal-place-value` has it


def read(lines):
    """Values of each metric, over the nodes that have it."""
    metrics, nodes = {}, set()
    for number, line in enumerate(lines, 1):
        node = json.loads(line)
        if not isinstance(node.get("node"), str) or node["node"] in nodes:
            raise SystemExit(f"line {number}: expected the name of a node of its own, got {node.get('node')!r}")
        nodes.add(node.pop("node"))
        for name, value in node.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SystemExit(f"line {number}: expected a number for {name}, got {value!r}")
            if "/" not in name:
                raise SystemExit(f"line {number}: expected BENCHMARK/METRIC, got {name}")
            metrics.setdefault(name, []).append(value)
    return metrics


def benchmark(name):
    """What stands before the annotation."""
    return re.split("[/:]", name, maxsplit=1)[0]


def matching(metrics, wanted):
    known = {benchmark(name) for name in metrics}
    wanted = [wanted] if isinstance(wanted, str) else wanted
    patterns = [pattern for pattern in wanted if benchmark(pattern) in known]
    alike = lambda name, pattern: name == pattern or (benchmark(name) == benchmark(pattern) and re.search(pattern, name))
    return {name: values for name, values in metrics.items() if any(alike(name, pattern) for pattern in patterns)}


def aggregated(metrics, by):
    """Metrics put together that differ in their rank, or in what the groups of an expression hold."""
    together = {}
    for name, values in metrics.items():
        if by is True:
            name = re.sub(r":\d+$", "", name)
        elif by and (match := re.search(by, name)):
            for group in range(match.re.groups, 0, -1):
                name = name[: match.start(group)] + "*" + name[match.end(group) :]
        together.setdefault(name, []).extend(values)
    return together


def statistic(name, values):
    values = sorted(values)
    if percent := re.fullmatch(r"p(\d\d?)", name):
        place = (len(values) - 1) * int(percent[1]) / 100
        below, above = values[math.floor(place)], values[math.ceil(place)]
        return below + (above - below) * (place - math.floor(place))
    if name == "std":
        return statistics.stdev(values) if len(values) > 1 else math.nan
    functions = {"count": len, "max": max, "mean": statistics.fmean, "min": min}
    if name not in functions:
        raise SystemExit(f"expected count, max, mean, min, std or p1 to p99, got {name}")
    return functions[name](values)


def rounded(value):
    if math.isnan(value):
        return value
    return float(f"{value:.{DIGITS}g}") if abs(value) < 1 else round(value, DIGITS)


def summary(metrics, rules):
    """The lines of a table for each category: metric, statistic, value."""
    categories = {}
    for name, rule in rules["superbench"]["rules"].items():
        for key in ("categories", "metrics", "statistics"):
            if key not in rule:
                raise SystemExit(f"rule {name}: expected {key}")
        found = aggregated(matching(metrics, rule["metrics"]), rule.get("aggregate"))
        wanted = rule["statistics"]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        lines = [(metric, which, rounded(statistic(which, found[metric]))) for metric in sorted(found) for which in wanted]
        categories[rule["categories"]] = lines or [("", which, "") for which in wanted]
    return categories


def markdown(categories):
    for category, lines in categories.items():
        yield f"## {category}\n\n| metric | statistics | values |\n| --- | --- | --- |\n"
        yield from (f"| {metric} | {which} | {value} |\n" for metric, which, value in lines)
        yield "\n"


def self_test():
    resnet = "model-benchmarks:resnet/galley-resnet50/fp16_inference"
    nodes = [
        {"node": "a", f"{resnet}_step_time": 2.0, f"{resnet}_step_time_99.9:0": 0.123, f"{resnet}_step_time_99.9:1": 3.0},
        {"node": "b", f"{resnet}_step_time": 4.0, "kernel-launch/event_time": 1.0},
    ]
    metrics = read(json.dumps(node) for node in nodes)
    rule = lambda metric, which, **more: {"categories": "C", "metrics": metric, "statistics": which, **more}
    lines = lambda rule: summary(metrics, {"superbench": {"rules": {"r": rule}}})["C"]
    step = f"{resnet}_step_time"
    every = ["count", "max", "mean", "min", "std", "p50", "p1"]
    assert lines(rule(f"{step}$", every)) == list(zip([step] * 7, every, [2, 4.0, 3.0, 2.0, 1.41, 3.0, 2.02]))
    # An expression begins with a benchmark's name as it is; annotations do not matter to that.
    assert [line[0] for line in lines(rule("model-benchmarks:.*/.*_step_time$", "mean"))] == [step]
    assert lines(rule("model-.*/.*_step_time$", "mean")) == [("", "mean", "")]
    assert lines(rule(["kernel-launch/event_time"], "mean")) == [("kernel-launch/event_time", "mean", 1.0)]
    tail = "model-benchmarks:.*_99.9"
    assert lines(rule(tail, "min")) == [(f"{step}_99.9:0", "min", 0.12), (f"{step}_99.9:1", "min", 3.0)]
    assert lines(rule(tail, "count", aggregate=True)) == [(f"{step}_99.9", "count", 2)]
    assert lines(rule(tail, "count", aggregate=r"galley-(\w+)/.*:(\d)")) == [
        (step.replace("resnet50", "*") + "_99.9:*", "count", 2)
    ]
    assert math.isnan(lines(rule("kernel-launch/event_time", "std"))[0][2])
    for bad in ['{"a/b": 1}', '{"node": "a", "a/b": null}', '{"node": "a", "b": 1}']:
        try:
            read([bad])
        except SystemExit:
            continue
        raise AssertionError(bad)
    print("all is well")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-file")
    parser.add_argument("--rule-file")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    if not args.data_file or not args.rule_file:
        parser.error("expected --data-file and --rule-file")
    import yaml

    with open(args.rule_file) as file:
        rules = yaml.safe_load(file)
    with open(args.data_file) as file:
        metrics = read(file)
    sys.stdout.writelines(markdown(summary(metrics, rules)))


if __name__ == "__main__":
    main()
