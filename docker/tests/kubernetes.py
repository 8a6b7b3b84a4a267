"""Renders the Helm chart with Helm itself, and holds what comes out, and KServe's files, against schemas.

    kubernetes.py ROOT CUSTOM

ROOT is the repository's; CUSTOM is written: the custom resources that came out, for crds.mjs.
"""

import ast
import importlib.metadata
import json
import pathlib
import re
import sys

import helm_python as helm
import kubernetes_validate
import yaml

root, custom_file = map(pathlib.Path, sys.argv[1:])
chart_dir = root / "docker/kubernetes/galley"
BUILT_IN = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}
CASES = {
    "as it comes": {},
    "everything": {
        "recipes": ["echo", "transformers_ner"],
        "env": {"GALLEY_MAX_QUEUE_SIZE": "64"},
        "extraArgs": ["--option", "echo.sleep=5ms"],
        "cuda": {"enabled": True, "count": 2},
        "imagePullSecrets": [{"name": "registry"}],
        "autoscaling": {"mode": "queue"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {
            "from": [{"podSelector": {"matchLabels": {"app": "shop"}}}],
            "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
        },
        "apiKeySecret": "keys",
        "tlsSecret": "tls",
        "cache": {"existingClaim": "hub"},
        "drain": {"delaySeconds": 0, "timeoutSeconds": 300},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "nothing that scales": {"autoscaling": {"mode": "none"}, "networkPolicy": {"enabled": False}, "replicas": 1},
}
WRONG = {
    "replicas": {"replicas": 0},
    "replcas": {"replcas": 2},
    "mode": {"autoscaling": {"mode": "often"}},
    "minReplicas": {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}},
    "env": {"env": {"GALLEY_MAX_QUEUE_SIZE": 64}},
}


def versions():
    """The oldest Kubernetes that the chart names, or the oldest whose schemas there are, and the newest."""
    asked = yaml.safe_load((chart_dir / "Chart.yaml").read_text())["kubeVersion"]
    oldest = tuple(map(int, re.search(r"(\d+)\.(\d+)", asked).groups()))
    known = [tuple(map(int, re.match(r"(\d+)\.(\d+)", v).groups())) for v in kubernetes_validate.utils.all_versions()]
    fitting = [version for version in known if version >= oldest]
    return [".".join(map(str, version)) for version in (fitting[0], fitting[-1])]


def rendered(chart, values):
    texts = chart.render(values, name="demo", namespace="prod")
    documents = [doc for path, text in texts.items() if path.endswith(".yaml") for doc in yaml.safe_load_all(text) if doc]
    return {document["kind"]: document for document in documents}


def hold_together(found, values):
    """What no schema knows: parts that must agree with each other and with the server."""
    pod = found["Deployment"]["spec"]["template"]
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    galley = spec["containers"][0]
    env = {variable["name"]: variable["value"] for variable in galley["env"]}
    flags = (root / "server/src/cli.rs").read_text()
    unknown = [name for name in env if f'"{name}"' not in flags]
    assert not unknown, f"galley serve has no variables {unknown}"

    assert spec["enableServiceLinks"] is False, "a Service called galley would set GALLEY_PORT"
    seconds = sum(int(env[name].removesuffix("s")) for name in ("GALLEY_DRAIN_DELAY", "GALLEY_DRAIN_TIMEOUT"))
    assert spec["terminationGracePeriodSeconds"] > seconds, "a pod is killed before it may have drained"
    assert galley["readinessProbe"]["httpGet"]["path"] == "/readyz", "readiness must end when draining begins"
    assert galley["livenessProbe"]["httpGet"]["path"] == "/livez", "a replica that drains must not be restarted"
    # Helm's own defaults, unless the case says otherwise.
    delay = values.get("drain", {}).get("delaySeconds", 10)
    probe = galley["readinessProbe"]
    assert delay == 0 or delay > probe["periodSeconds"] * probe["failureThreshold"], "it leaves before it is seen to"

    selectors = [found["Deployment"]["spec"]["selector"]["matchLabels"], found["Service"]["spec"]["selector"]]
    selectors += [found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    if "NetworkPolicy" in found:
        selectors.append(found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert selector.items() <= labels.items(), f"{selector} selects no pod"
    ports = {port["name"]: port["containerPort"] for port in galley["ports"]}
    assert ports == {"http": int(env["GALLEY_PORT"]), "grpc": int(env["GALLEY_GRPC_PORT"])}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == set(ports)
    mounted = {mount["name"] for mount in galley["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    if "ServiceMonitor" in found:
        monitor = found["ServiceMonitor"]["spec"]
        assert monitor["selector"]["matchLabels"].items() <= found["Service"]["metadata"]["labels"].items()
    scalers = found.keys() & {"HorizontalPodAutoscaler", "ScaledObject"}
    assert ("replicas" in found["Deployment"]["spec"]) == (not scalers), "an autoscaler and a release both set replicas"
    for scaler in scalers:
        assert found[scaler]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]


def check_chart():
    report = helm.lint(chart_dir, {}, strict=True)
    found = [message["error"] for message in report["messages"] if message["severity"] > 1] + report["errors"]
    assert not found, "\n".join(found)
    kubernetes, custom = versions(), []
    with helm.Chart.load(chart_dir) as chart:
        for name, values in CASES.items():
            found = rendered(chart, values)
            for kind, document in found.items():
                if kind not in BUILT_IN:
                    custom.append(document)
                    continue
                for version in kubernetes:
                    kubernetes_validate.validate(document, version, strict=True)
            hold_together(found, values)
            print(f"chart, {name}: {', '.join(sorted(found))}")
        for name, values in WRONG.items():
            try:
                chart.render(values, name="demo", namespace="prod")
            except helm.HelmError as error:
                assert name in str(error), f"{name} is not named: {error}"
            else:
                raise AssertionError(f"wrong values are taken: {values}")
    custom_file.write_text(json.dumps(custom))
    print(f"chart: lint, Kubernetes {' and '.join(kubernetes)}, {len(WRONG)} wrong values refused")


def kserve_models():
    """KServe's classes as its Python package describes them: names of attributes in JSON, with their types."""
    models = {}
    for file in importlib.metadata.distribution("kserve").files:
        if not re.match(r"kserve/models/v1(alpha|beta)1_\w+\.py", str(file)):
            continue
        for node in ast.parse(pathlib.Path(file.locate()).read_text()).body:
            if isinstance(node, ast.ClassDef):
                tables = {
                    target.id: ast.literal_eval(part.value)
                    for part in node.body
                    if isinstance(part, ast.Assign) and isinstance(part.value, ast.Dict)
                    for target in part.targets
                }
                types, names = tables.get("openapi_types", {}), tables.get("attribute_map", {})
                models[node.name] = {names[attribute]: kind for attribute, kind in types.items()}
    return models


def conforms(models, value, kind, path):
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), f"{path}: expected a list"
        for i, item in enumerate(value):
            conforms(models, item, match[1], f"{path}[{i}]")
    elif match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for key, item in value.items():
            conforms(models, item, match[1], f"{path}.{key}")
    elif kind in plain:
        assert isinstance(value, plain[kind]), f"{path}: expected {kind}, got {value!r}"
    elif kind in models:
        assert isinstance(value, dict), f"{path}: expected {kind}"
        unknown = value.keys() - models[kind].keys()
        assert not unknown, f"{path}: {kind} has no {', '.join(sorted(unknown))}"
        for key, item in value.items():
            conforms(models, item, models[kind][key], f"{path}.{key}")
    elif kind == "V1Container" or kind == "V1PodSpec":
        # Kubernetes' own: as part of a pod, for which there is a schema.
        spec = {"containers": [value]} if kind == "V1Container" else value
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
        kubernetes_validate.validate(pod, versions()[-1], strict=True)


def check_kserve():
    models = kserve_models()
    kinds = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}
    found = {}
    for file in sorted((root / "docker/kubernetes/kserve").glob("*.yaml")):
        document = yaml.safe_load(file.read_text())
        found[document["kind"]] = document
        conforms(models, document, kinds[document["kind"]], document["kind"])
    runtime, service = found["ClusterServingRuntime"], found["InferenceService"]
    predictor = service["spec"]["predictor"]
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    formats = [entry["name"] for entry in runtime["spec"]["supportedModelFormats"]]
    assert predictor["model"]["modelFormat"]["name"] in formats
    args = " ".join(runtime["spec"]["containers"][0]["args"])
    drain = sum(int(seconds) for seconds in re.findall(r"--drain-\w+=(\d+)s", args))
    assert drain and predictor["terminationGracePeriodSeconds"] > drain, "a pod is killed before it may have drained"
    print(f"KServe: {', '.join(sorted(found))}")


check_chart()
check_kserve()
