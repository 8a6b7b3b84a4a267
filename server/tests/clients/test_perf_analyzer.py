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
# Three small windows, the fewest it takes, that count whatever they show: what is tried is the protocol, not the speed.
# They end by requests and not by time, in which a busy machine may answer none.
SMALL = ["--measurement-mode", "count_windows", "--measurement-request-count", "200"]
SMALL += ["--max-trials", "6", "--stability-percentage", "999"]


@pytest.fixture(scope="session")
def environment():
    libraries = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia/cuda_runtime/lib"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    tried = subprocess.run([PROGRAM, "--version"], env=environment, capture_output=True, text=True)
    if tried.returncode == 127 or "shared libraries" in tried.stderr:
        pytest.skip(f"perf_analyzer does not start: {tried.stderr.strip()} (Debian has libb64 as libb64-0d)")
    return environment


def where(server, protocol):
    """The arguments that name a server."""
    arguments = ["-u", server.http] if protocol == "http" else ["-i", "grpc", "-u", server.grpc]
    return arguments + (["--streaming"] if protocol == "stream" else [])


@pytest.mark.parametrize("concurrency", CONCURRENCIES)
@pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
def test_load(server, environment, tmp_path, protocol, concurrency):
    data, table = tmp_path / "data.json", tmp_path / "table.csv"
    texts = [{"text": {"content": [f"text {number}"], "shape": [1]}} for number in range(8)]
    data.write_text(json.dumps({"data": texts}))
    arguments = ["-m", "echo", "--input-data", data, "--concurrency-range", concurrency, "-f", table]
    arguments += SMALL + where(server, protocol)
    ran = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (row,) = csv.DictReader(table.open())
    assert row["Concurrency"] == concurrency
    assert float(row["Inferences/Second"]) > 0
    if protocol != "stream":
        # The server's part of the latency, out of its statistics.
        assert float(row["Server Queue"]) + float(row["Server Compute Infer"]) > 0, row


@pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
@pytest.mark.parametrize("with_data", [True, False])
def test_batches(server, environment, tmp_path, protocol, with_data):
    table = tmp_path / "table.csv"
    arguments = ["-m", "echo", "-b", "4", "--concurrency-range", "2", "-f", table, *SMALL, *where(server, protocol)]
    if with_data:
        data = tmp_path / "data.json"
        texts = [{"text": {"content": [f"text {number}"], "shape": [1]}} for number in range(8)]
        data.write_text(json.dumps({"data": texts}))
        arguments += ["--input-data", data]
    ran = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Batch size: 4" in ran.stdout
    (row,) = csv.DictReader(table.open())
    assert float(row["Inferences/Second"]) > 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_shared_memory_is_refused_in_words(server, environment, protocol):
    arguments = ["-m", "echo", "--shared-memory", "system", *SMALL, *where(server, protocol)]
    ran = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode != 0
    assert "shares no memory" in ran.stdout + ran.stderr
