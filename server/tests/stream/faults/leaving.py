"""A worker that is asked to go leaves nothing behind for the ack wait, which is long here; and what is not set up as the promise
needs it is named and not used."""

import asyncio
import json
import os
import subprocess
import urllib.request

import nats
from nats.js.api import ConsumerConfig

from servers import free_port, until

COUNT = 200
STREAM = "LEAVING"


def run(galley, broker, database):
    url = f"nats://127.0.0.1:{broker.port}"
    source = f"{url}/{STREAM}"
    database.create("leaving")
    environment = os.environ | {"GALLEY_STREAM_FROM": source, "GALLEY_STREAM_TO": database.url("leaving")}

    def ask(*args, stdin=None):
        return subprocess.run([galley, *args], env=environment, input=stdin, capture_output=True, text=True)

    def worker(*args):
        return subprocess.Popen([galley, "stream", "echo", *args], env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)

    def written():
        is_there = database.ask("SELECT to_regclass('galley_answers') IS NOT NULL", "leaving")[0][0]
        return database.ask("SELECT count(*) FROM galley_answers", "leaving")[0][0] if is_there else 0

    # By the environment alone, which a worker's settings may be in, too.
    assert ask("stream", "setup", "--consumer", "galley-echo", "--ack-wait", "1h").returncode == 0
    other = ask("stream", "setup", "echo", "--ack-wait", "10s", "--duplicate-window", "5s")
    assert other.returncode == 1 and "duplicate_window is 120s, and should be 5s" in other.stderr, other
    other = ask("stream", "setup", "echo", "--ack-wait", "10s")
    assert other.returncode == 1 and "ack_wait is 3600s, and should be 10s" in other.stderr, other

    lines = [json.dumps({"id": str(number)}) for number in range(COUNT)]
    assert ask("feed", "-", stdin="").returncode == 2, "feed has no destination"
    assert ask("feed", "-", "--to", source, stdin="\n".join(lines)).returncode == 0
    port = free_port()
    slow = ["--option", "sleep=200ms", "--max-batch-size", "2", "--max-in-hand", "32"]
    first = worker(*slow, "--metrics-port", str(port))
    until("some are written", lambda: written() > 0)
    metric = 'galley_stream_waiting{recipe="echo"} '
    lag = until("it says how many wait", lambda: waiting(port, metric))
    first.terminate()
    said = first.communicate()[0]
    returned = int(said.split("returned ")[1].split(",")[0])
    assert first.returncode == 0, said
    before = written()
    assert before < COUNT, "it was too quick to leave anything behind"
    second = worker()
    until("the next one has everything", lambda: written() == COUNT)
    second.terminate()
    assert second.wait() == 0
    print(f"leaving: {before} rows by the first worker, which saw {lag} waiting and gave {returned} back; "
          f"{COUNT - before} by the next at once", flush=True)

    asyncio.run(limit(url))
    refused = ask("stream", "echo", "--consumer", "limited")
    assert refused.returncode == 1 and "max_deliver is 5, and should be -1" in refused.stderr, refused
    refused = ask("stream", "echo", "--consumer", "none")
    assert refused.returncode == 1 and "galley stream setup makes it" in refused.stderr, refused


def waiting(port, metric):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    except OSError:
        return None
    return int(float(text.split(metric)[1].split()[0])) if metric in text else None


async def limit(url):
    """A consumer that delivers each message five times, and then never again."""
    connection = await nats.connect(url)
    js = connection.jetstream()
    # A stream that is worked off has one consumer.
    await js.delete_consumer(STREAM, "galley-echo")
    await js.add_consumer(STREAM, ConsumerConfig(durable_name="limited", ack_policy="explicit", max_deliver=5))
    await connection.close()
