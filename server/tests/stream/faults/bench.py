"""The benchmark from a broker into a database: with all messages there before, and published while they are worked on."""

import json
import subprocess

EXAMPLES, RATE = 300, 100


def run(galley, broker, database):
    database.create("bench")
    url = database.url("bench")
    command = [galley, "bench", "stream", "echo", "--from", f"nats://127.0.0.1:{broker.port}/BENCH", "--to", url,
               "--examples", str(EXAMPLES), "--repeats", "1", "--json"]
    for more in ([], ["--rate", f"{RATE}/s"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        records = [json.loads(line) for line in done.stdout.splitlines()]
        streamed = next(record for record in records if record["kind"] == "streamed")
        assert (streamed["source"], streamed["table"], streamed["examples"]) == ("nats", "postgres", EXAMPLES), streamed
        assert streamed["compared"] > 0 and streamed["latency_ms"]["p99"] > 0, streamed
        assert streamed.get("rate") == (RATE if more else None), streamed
        if more:
            # Faster than it was published it cannot have been.
            assert streamed["seconds"] > EXAMPLES / RATE / 2, streamed
    rows = database.ask("SELECT count(*), count(DISTINCT id) FROM galley_answers WHERE status = 'ok'", "bench")[0]
    assert rows == (2 * EXAMPLES, 2 * EXAMPLES), rows
    print(f"bench: {rows[0]} rows in two passes, all there before and at {RATE}/s", flush=True)
