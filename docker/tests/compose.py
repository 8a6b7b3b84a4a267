"""Holds the compose file against the server, HAProxy's configuration and the files that it mounts: compose.py ROOT"""

import pathlib
import re
import sys
from urllib.parse import urlsplit

import yaml

import galley

root = pathlib.Path(sys.argv[1])
docker = root / "docker"
FROM, TO = "GALLEY_STREAM_FROM", "GALLEY_STREAM_TO"
# With the defaults of its variables.
compose = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (docker / "compose.yaml").read_text())
services = yaml.safe_load(compose)["services"]
haproxy = (docker / "haproxy/haproxy.cfg").read_text()


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


variables = galley.variables(root)
for name, service in services.items():
    unknown = {v for v in service.get("environment", {}) if v.startswith("GALLEY_")} - variables
    assert not unknown, f"{name}: galley has no variables {', '.join(sorted(unknown))}"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (docker / source).exists(), f"{name}: there is no {source} to mount"
    hardened = service.get("read_only") and service.get("cap_drop") == ["ALL"]
    assert hardened or name == "grafana", f"{name} may do what it need not"
    for other in service.get("depends_on", {}):
        profiles = set(services[other].get("profiles", service.get("profiles", [])))
        assert profiles >= set(service.get("profiles", [])), f"{name} runs where {other} does not"
    tag = service["image"].rpartition(":")[2]
    assert tag not in ("", "latest") and "/" not in tag, f"{name}: {service['image']} is no certain version"

check = re.search(r"check inter (\S+) fall (\d+)", haproxy)
noticed = seconds(check[1]) * int(check[2])
for name in ("galley", "galley-cuda"):
    delay, timeout = (seconds(services[name]["environment"][f"GALLEY_DRAIN_{part}"]) for part in ("DELAY", "TIMEOUT"))
    grace = seconds(services[name]["stop_grace_period"])
    assert grace > delay + timeout, f"{name} is killed before it may have drained"
    answering = seconds(services[name]["environment"].get("GALLEY_TIMEOUT", "60s"))
    assert timeout > answering, f"{name} gives up draining before its last request's time is up"
    assert delay > 2 * noticed, f"{name} leaves before HAProxy has noticed"
    # No replica is asked for its own jobs, so all must have the same.
    folder = str(pathlib.PurePosixPath(services[name]["environment"]["GALLEY_JOBS"]).parent)
    assert folder in [volume.split(":")[1] for volume in services[name]["volumes"]], f"{name} shares no jobs with the others"

# The stream: workers, their health check and Prometheus must mean one port, all of them one stream of one broker.
jobs = yaml.safe_load((docker / "prometheus/prometheus.yml").read_text())["scrape_configs"]
scraped = {name: sd["port"] for job in jobs for sd in job.get("dns_sd_configs", []) for name in sd["names"]}
setup = services["stream-setup"]
nats = (docker / "nats/nats.conf").read_text()
assert re.search(r"^\s*sync_interval: always$", nats, re.M), "the broker forgets what it has acknowledged"
store = re.search(r"store_dir: (\S+)", nats)[1]
assert store in [volume.split(":")[1] for volume in services["nats"]["volumes"]], f"no volume keeps {store}"
for name in ("stream", "stream-cuda"):
    worker, environment = services[name], services[name]["environment"]
    assert seconds(worker["stop_grace_period"]) > seconds(environment["GALLEY_DRAIN_TIMEOUT"]), f"{name} is killed early"
    port = environment["GALLEY_METRICS_PORT"]
    assert environment["GALLEY_HEALTH_URL"].endswith(f":{port}"), f"{name}: the health check asks another port"
    assert str(scraped["stream"]) == port, f"{name}: Prometheus asks another port"
    assert environment[FROM] == setup["environment"][FROM], f"{name} reads another stream than is set up"
    source, table = urlsplit(environment[FROM]), urlsplit(environment[TO])
    assert (source.hostname, table.hostname) == ("nats", "postgres"), f"{name} reads or writes elsewhere"
    assert re.search(rf"^port: {source.port}$", nats, re.M), f"{name}: the broker listens elsewhere"
    database = services["postgres"]["environment"]
    assert (table.username, table.password) == (database["POSTGRES_USER"], database["POSTGRES_PASSWORD"])
    assert f"galley-{worker['command'][1]}" in setup["command"], f"{name} has another consumer than is set up"
    assert environment["GALLEY_ALLOW"] in [volume.split(":")[1] for volume in worker["volumes"]]
# What HAProxy looks for must be there, whichever profile runs.
for host in set(re.findall(r"server-template \w+ \d+ ([\w-]+):", haproxy)):
    assert host in services and host in services["galley-cuda"]["networks"]["default"]["aliases"], f"there is no {host}"
print(f"compose: {', '.join(services)}")
