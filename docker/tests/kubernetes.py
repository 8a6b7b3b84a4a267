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

import galley

root, custom_file = map(pathlib.Path, sys.argv[1:])
chart_dir = root / "docker/kubernetes/galley"
FROM, TO = "GALLEY_STREAM_FROM", "GALLEY_STREAM_TO"
BUILT_IN = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Job"}
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
        "jobsSecret": "jobs",
        "cache": {"existingClaim": "hub"},
        "drain": {"delaySeconds": 0, "timeoutSeconds": 300},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "stream": {
            "enabled": True,
            "recipe": "transformers_ner",
            "urlSecret": "urls",
            "nats": {"stream": "texts", "consumer": "ner", "monitoring": "nats:8222"},
            "allow": ["s3://my-images/", "https://img.example.com/"],
            "env": {"GALLEY_FETCHES": "128"},
            "extraArgs": ["--max-in-hand", "4096"],
            "drainSeconds": 300,
            "autoscaling": {"minReplicas": 1, "maxReplicas": 50},
            "networkPolicy": {"from": [{"namespaceSelector": {}}]},
        },
    },
    "a stream alone": {
        "serve": {"enabled": False},
        "serviceMonitor": {"enabled": True},
        "stream": {"enabled": True, "urlSecret": "urls"},
    },
    "nothing that scales": {
        "autoscaling": {"mode": "none"},
        "networkPolicy": {"enabled": False},
        "replicas": 1,
        "stream": {"enabled": True, "urlSecret": "urls", "autoscaling": {"enabled": False}, "replicas": 3},
    },
}
WRONG = {
    "replicas": {"replicas": 0},
    "replcas": {"replcas": 2},
    "mode": {"autoscaling": {"mode": "often"}},
    "minReplicas": {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}},
    "env": {"env": {"GALLEY_MAX_QUEUE_SIZE": 64}},
    "urlSecret": {"stream": {"enabled": True}},
    "stream.autoscaling": {"stream": {"enabled": True, "urlSecret": "u", "autoscaling": {"minReplicas": 5, "maxReplicas": 2}}},
    "drainSeconds": {"stream": {"drainSeconds": 0}},
    "allow": {"stream": {"allow": ["s3://a/,s3://b/"]}},
    "lagThreshold": {"stream": {"autoscaling": {"lagThreshold": "256"}}},
}


def versions():
    """The oldest Kubernetes that the chart names, or the oldest whose schemas there are, and the newest."""
    asked = yaml.safe_load((chart_dir / "Chart.yaml").read_text())["kubeVersion"]
    oldest = tuple(map(int, re.search(r"(\d+)\.(\d+)", asked).groups()))
    known = [tuple(map(int, re.match(r"(\d+)\.(\d+)", v).groups())) for v in kubernetes_validate.utils.all_versions()]
    fitting = [version for version in known if version >= oldest]
    return [".".join(map(str, version)) for version in (fitting[0], fitting[-1])]


def rendered(chart, values):
    """The server's parts and the stream's, by kind."""
    texts = chart.render(values, name="demo", namespace="prod")
    documents = [doc for path, text in texts.items() if path.endswith(".yaml") for doc in yaml.safe_load_all(text) if doc]
    server, stream = {}, {}
    for document in documents:
        part = stream if "-stream" in document["metadata"]["name"] else server
        assert part.setdefault(document["kind"], document) is document, f"two of the kind {document['kind']}"
    return server, stream


def defaults():
    return yaml.safe_load((chart_dir / "values.yaml").read_text())


def environment(container):
    unknown = {variable["name"] for variable in container["env"]} - galley.variables(root)
    assert not unknown, f"galley has no variables {', '.join(sorted(unknown))}"
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def hold_together(found, values):
    """What no schema knows: parts that must agree with each other and with the server."""
    pod = found["Deployment"]["spec"]["template"]
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    container = spec["containers"][0]
    env = environment(container)

    assert spec["enableServiceLinks"] is False, "a Service called galley would set GALLEY_PORT"
    seconds = sum(int(env[name].removesuffix("s")) for name in ("GALLEY_DRAIN_DELAY", "GALLEY_DRAIN_TIMEOUT"))
    assert spec["terminationGracePeriodSeconds"] > seconds, "a pod is killed before it may have drained"
    answering, draining = (env.get(name, "60s").removesuffix("s") for name in ("GALLEY_TIMEOUT", "GALLEY_DRAIN_TIMEOUT"))
    assert int(draining) > int(answering), "draining is given up before the last request's time is up"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", "readiness must end when draining begins"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez", "a replica that drains must not be restarted"
    # Helm's own defaults, unless the case says otherwise.
    delay = values.get("drain", {}).get("delaySeconds", 10)
    probe = container["readinessProbe"]
    assert delay == 0 or delay > probe["periodSeconds"] * probe["failureThreshold"], "it leaves before it is seen to"

    selectors = [found["Deployment"]["spec"]["selector"]["matchLabels"], found["Service"]["spec"]["selector"]]
    selectors += [found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    if "NetworkPolicy" in found:
        selectors.append(found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert selector.items() <= labels.items(), f"{selector} selects no pod"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": int(env["GALLEY_PORT"]), "grpc": int(env["GALLEY_GRPC_PORT"])}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == set(ports)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    jobs = values.get("jobsSecret")
    assert env.get("GALLEY_JOBS") == (jobs and {"secretKeyRef": {"name": jobs, "key": "url"}}), "jobs are kept elsewhere"
    if jobs and "NetworkPolicy" in found:
        egress = found["NetworkPolicy"]["spec"]["egress"]
        assert 5432 in {port["port"] for rule in egress for port in rule["ports"]}, "the table of jobs cannot be reached"
    if "ServiceMonitor" in found:
        monitor = found["ServiceMonitor"]["spec"]
        assert monitor["selector"]["matchLabels"].items() <= found["Service"]["metadata"]["labels"].items()
    scalers = found.keys() & {"HorizontalPodAutoscaler", "ScaledObject"}
    assert ("replicas" in found["Deployment"]["spec"]) == (not scalers), "an autoscaler and a release both set replicas"
    for scaler in scalers:
        assert found[scaler]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]


def stream_holds_together(found, server, values):
    """The same for a stream's parts, and that the server's leave them alone."""
    setting = {**defaults()["stream"], **values["stream"]}
    nats = {**defaults()["stream"]["nats"], **setting["nats"]}
    deployment, job = found["Deployment"]["spec"], found["Job"]
    labels, spec = deployment["template"]["metadata"]["labels"], deployment["template"]["spec"]
    container, setup = spec["containers"][0], job["spec"]["template"]["spec"]["containers"][0]
    env = environment(container)

    drain = int(env["GALLEY_DRAIN_TIMEOUT"].removesuffix("s"))
    assert spec["terminationGracePeriodSeconds"] > drain, "a worker is killed before it may have drained"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": int(env["GALLEY_METRICS_PORT"])}
    assert env["GALLEY_HOST"] == "0.0.0.0", "its port is the pod's alone"
    for probe, path in (("startup", "/readyz"), ("liveness", "/livez"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "metrics"}
    for name, key in ((FROM, "from"), (TO, "to")):
        assert env[name] == {"secretKeyRef": {"name": setting["urlSecret"], "key": key}}, f"{name} stands for all to read"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}

    selectors = [deployment["selector"]["matchLabels"], found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    if "NetworkPolicy" in found:
        policy = found["NetworkPolicy"]["spec"]
        selectors.append(policy["podSelector"]["matchLabels"])
        assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["metrics"]
        assert {4222, 5432} <= {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    if "PodMonitor" in found:
        monitor = found["PodMonitor"]["spec"]
        selectors.append(monitor["selector"]["matchLabels"])
        assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]
        alerts = (root / "docker/prometheus/alerts.yml").read_text()
        assert monitor["podMetricsEndpoints"][0]["relabelings"][0]["replacement"] in alerts, "no alert knows this job"
    assert ("PodMonitor" in found) == values.get("serviceMonitor", {}).get("enabled", False)
    setup_labels = job["spec"]["template"]["metadata"]["labels"]
    for selector in selectors:
        assert selector.items() <= labels.items(), f"{selector} selects no worker"
        assert not selector.items() <= setup_labels.items(), f"{selector} takes setup for a worker"
    for kind in server.keys() & {"Service", "Deployment", "PodDisruptionBudget"}:
        selector = server[kind]["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        assert not selector.items() <= labels.items() and not selector.items() <= setup_labels.items()

    # The consumer: made before anything looks for it, of the name that workers pull from and KEDA counts by.
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    consumer = nats["consumer"] or f"galley-{setting['recipe']}"
    assert container["args"][:4] == ["stream", setting["recipe"], "--consumer", consumer]
    assert setup["args"] == ["stream", "setup", "--consumer", consumer, "--replicas", str(nats["replicas"])]
    assert environment(setup) == {FROM: env[FROM]}, "setup needs no database"
    assert ("replicas" in deployment) == ("ScaledObject" not in found), "an autoscaler and a release both set replicas"
    if "ScaledObject" in found:
        scaled = found["ScaledObject"]["spec"]
        assert scaled["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
        (trigger,) = scaled["triggers"]
        assert trigger["type"] == "nats-jetstream"
        assert (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) == (nats["stream"], consumer)
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings alone"
        assert scaled["minReplicaCount"] or trigger["metadata"]["activationLagThreshold"] == "0", "a lone message waits"


def check_chart():
    report = helm.lint(chart_dir, {}, strict=True)
    found = [message["error"] for message in report["messages"] if message["severity"] > 1] + report["errors"]
    assert not found, "\n".join(found)
    kubernetes, custom = versions(), []
    with helm.Chart.load(chart_dir) as chart:
        for name, values in CASES.items():
            server, stream = rendered(chart, values)
            for document in [*server.values(), *stream.values()]:
                if document["kind"] not in BUILT_IN:
                    custom.append(document)
                    continue
                for version in kubernetes:
                    kubernetes_validate.validate(document, version, strict=True)
            print(f"chart, {name}: {', '.join(sorted(server))}")
            assert bool(server) == values.get("serve", {}).get("enabled", True), "a server that nobody asked for"
            assert bool(stream) == ("stream" in values), "a stream that nobody asked for"
            if server:
                hold_together(server, values)
            if stream:
                stream_holds_together(stream, server, values)
                print(f"    its stream: {', '.join(sorted(stream))}")
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


def check_nats():
    """The values for NATS' chart, against what the stream's rely on."""
    values, nats = yaml.safe_load((root / "docker/kubernetes/nats-values.yaml").read_text()), defaults()["stream"]["nats"]
    cluster, jetstream = values["config"]["cluster"], values["config"]["jetstream"]
    assert cluster["enabled"] and cluster["replicas"] >= nats["replicas"], "there are fewer servers than copies"
    assert jetstream["enabled"] and jetstream["fileStore"]["pvc"]["size"], "messages are not kept"
    assert jetstream["merge"]["sync_interval"] == "always", "the broker forgets what it has acknowledged"
    assert nats["monitoring"].startswith("nats-headless."), "its Service does not have the port for monitoring"
    print(f"NATS: {cluster['replicas']} servers, {nats['replicas']} copies")


check_chart()
check_nats()
check_kserve()
