"""A server that is asked for ten times what it can, and what another recipe's callers notice of that.

    galley serve --port 8080 --recipes efficientnet_lite0,deepsegment_en --device cpu --threads 2 --slo 100ms
    python3 overload.py --port 8080 FILE.jpg

Three rounds of: four callers that each wait for their answer, whose rate is what the server can; ten times that rate in an open loop
with exponential gaps; 40 texts a second alone; and these beside the ten times. Prints a line each: answers by status, the rate of good
ones, percentiles in ms of answers and of refusals, how late the client was, and good answers within the limit over those of the four
callers.
"""

import argparse
import asyncio
import json
import random
import socket
import time
from collections import Counter

TEXT = json.dumps(["Angela Merkel met Barack Obama in Berlin on Tuesday."]).encode()
REFUSED = (429, 503, 504)


def message(recipe, kind, body):
    head = f"POST /recipes/{recipe}/infer HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Pool:
    """Connections that are kept."""

    def __init__(self, port):
        self.port, self.free = port, []

    async def send(self, data):
        """The answer's status."""
        while self.free:
            reader, writer = self.free.pop()
            if not writer.is_closing():
                break
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(data)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in head if line.startswith(b"content-length:")), 0)
        await reader.readexactly(length)
        if b"connection: close" in head:
            writer.close()
        else:
            self.free.append((reader, writer))
        return int(head[0].split()[1])


async def one(pool, data, seen):
    start = time.perf_counter()
    try:
        status = await pool.send(data)
    except (OSError, asyncio.IncompleteReadError) as error:
        status = type(error).__name__
    seen.append((status, time.perf_counter() - start))


async def closed(pool, data, callers, seconds):
    seen, end = [], time.perf_counter() + seconds

    async def caller():
        while time.perf_counter() < end:
            await one(pool, data, seen)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return seen


async def opened(pool, data, rate, seconds):
    """What was seen, and how late the latest request was sent."""
    seen, tasks, late = [], set(), 0.0
    start = due = time.perf_counter()
    while due < start + seconds:
        due += random.expovariate(rate)
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        late = max(late, -wait)
        task = asyncio.ensure_future(one(pool, data, seen))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return seen, late


def percentiles(times):
    times = sorted(times)
    return [round(times[min(len(times) - 1, int(part * len(times)))] * 1e3, 2) for part in (0.5, 0.99, 1)] if times else None


def say(name, seen, seconds, more=""):
    good = [took for status, took in seen if status == 200]
    refused = [took for status, took in seen if status in REFUSED]
    counts = dict(Counter(status for status, _ in seen))
    print(f"{name}: {counts}, good/s {len(good) / seconds:.1f}, p50 p99 max {percentiles(good)}, refused {percentiles(refused)}{more}", flush=True)


def within(seen, limit, seconds):
    return sum(status == 200 and took <= limit for status, took in seen) / seconds


async def run(arguments):
    pool, seconds = Pool(arguments.port), arguments.seconds
    with open(arguments.image, "rb") as file:
        image = message(arguments.flooded, "image/jpeg", file.read())
    text = message(arguments.other, "application/json", TEXT)
    await closed(pool, image, 4, 4)
    for number in range(arguments.rounds):
        seen = await closed(pool, image, 4, seconds / 2)
        say(f"{number}: four callers", seen, seconds / 2)
        can, unloaded = (within(seen, limit, seconds / 2) for limit in (float("inf"), arguments.limit))
        seen, late = await opened(pool, image, 10 * can, seconds)
        good = within(seen, arguments.limit, seconds)
        say(f"{number}: {10 * can:.0f}/s", seen, seconds, f", late {late * 1e3:.1f} ms, goodput {good:.1f}/s, over unloaded {good / unloaded:.3f}")
        await asyncio.sleep(1)
        say(f"{number}: texts alone", (await opened(pool, text, 40, seconds))[0], seconds)
        flood = asyncio.ensure_future(opened(pool, image, 10 * can, seconds + 1))
        await asyncio.sleep(0.5)
        say(f"{number}: texts beside {10 * can:.0f}/s", (await opened(pool, text, 40, seconds))[0], seconds)
        await flood
        await asyncio.sleep(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.1, help="seconds within which an answer is a good one")
    parser.add_argument("--flooded", default="efficientnet_lite0")
    parser.add_argument("--other", default="deepsegment_en")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
