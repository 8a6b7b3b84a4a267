"""Holds the compose file against the server, HAProxy's configuration and the files that it mounts: compose.py ROOT"""

import pathlib
import re
import sys

import yaml

root = pathlib.Path(sys.argv[1])
docker = root / "docker"
services = yaml.safe_load((docker / "compose.yaml").read_text())["services"]
haproxy = (docker / "haproxy/haproxy.cfg").read_text()


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


variables = (root / "server/src/cli.rs").read_text() + (root / "loadgen/src/args.rs").read_text()
for name, service in services.items():
    for variable in service.get("environment", {}):
        if variable.startswith("GALLEY_"):
            assert f'"{variable}"' in variables, f"{name}: galley has no variable {variable}"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (docker / source).exists(), f"{name}: there is no {source} to mount"
    tag = service["image"].rpartition(":")[2]
    assert tag not in ("", "latest") and "/" not in tag, f"{name}: {service['image']} is no certain version"

check = re.search(r"check inter (\S+) fall (\d+)", haproxy)
noticed = seconds(check[1]) * int(check[2])
for name in ("galley", "galley-cuda"):
    delay, timeout = (seconds(services[name]["environment"][f"GALLEY_DRAIN_{part}"]) for part in ("DELAY", "TIMEOUT"))
    grace = seconds(services[name]["stop_grace_period"])
    assert grace > delay + timeout, f"{name} is killed before it may have drained"
    assert delay > 2 * noticed, f"{name} leaves before HAProxy has noticed"
    assert services[name]["read_only"], f"{name} may write where it need not"
# What HAProxy looks for must be there, whichever profile runs.
for host in set(re.findall(r"server-template \w+ \d+ ([\w-]+):", haproxy)):
    assert host in services and host in services["galley-cuda"]["networks"]["default"]["aliases"], f"there is no {host}"
print(f"compose: {', '.join(services)}")
