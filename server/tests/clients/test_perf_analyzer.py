"""perf_analyzer, NVIDIA's load generator, out of tritonclient's wheel."""

import csv
import json
import os
import pathlib
import subprocess
import sysconfig

import pytest

PROGRAM = pathlib.Path(sysconfig.get_path("scripts")) / "perf_analyzer"
CONCURRENCIES = ["1", "16", "64"]


@pytest.fixture(scope="session")
def environment():
    libraries = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia/cuda_runtime/lib"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    tried = subprocess.run([PROGRAM, "--version"], env=environment, capture_output=True, text=True)
    if tried.returncode == 127 or "shared libraries" in tried.stderr:
        pytest.skip(f"perf_analyzer does not start: {tried.stderr.strip()} (Debian has libb64 as libb64-0d)")
    return environment


@pytest.mark.parametrize("concurrency", CONCURRENCIES)
@pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
def test_load(server, environment, tmp_path, protocol, concurrency):
    data, table = tmp_path / "data.json", tmp_path / "table.csv"
    texts = [{"text": {"content": [f"text {number}"], "shape": [1]}} for number in range(8)]
    data.write_text(json.dumps({"data": texts}))
    arguments = ["-m", "echo", "--input-data", data, "--concurrency-range", concurrency, "-f", table]
    # Three small windows, the fewest it takes, that count whatever they show: what is tried is the protocol, not the speed.
    # They end by requests and not by time, in which a busy machine may answer none.
    arguments += ["--measurement-mode", "count_windows", "--measurement-request-count", "200"]
    arguments += ["--max-trials", "6", "--stability-percentage", "999"]
    if protocol == "http":
        arguments += ["-u", server.http]
    else:
        arguments += ["-i", "grpc", "-u", server.grpc]
    if protocol == "stream":
        arguments += ["--streaming"]
    ran = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (row,) = csv.DictReader(table.open())
    assert row["Concurrency"] == concurrency
    assert float(row["Inferences/Second"]) > 0
    if protocol != "stream":
        # The server's part of the latency, out of its statistics.
        assert float(row["Server Queue"]) + float(row["Server Compute Infer"]) > 0, row
