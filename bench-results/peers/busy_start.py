"""A server that is started while other processes take every core, against one that is started in quiet.

    python3 busy_start.py --galley ../../target/release/galley --rounds 3

Starts in turn: quiet, and with a busy loop on each core that ends ten seconds after the start. The server is asked for all its recipes
in turn, as from its readiness on. A minute after the loops' end, and in the quiet case as long after the start, each recipe's
throughput is taken: one input a request, a closed loop. Prints a line for each figure, and at the end each recipe's ratio, busy over
quiet: the median of the rounds' and all of them.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import time
import urllib.error
import urllib.request

RECIPES = ["efficientnet_lite0", "deepsegment_en", "transformers_ner"]
BUSY, SETTLE = 10.0, 60.0


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def until_ready(url):
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)


def throughput(arguments, recipe, url, seconds):
    command = [arguments.galley, "bench", "served", recipe, "--url", url, "--concurrency", str(arguments.concurrency), "--repeats", "1"]
    command += ["--seconds", str(seconds), "--json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    served = [figure for figure in figures if figure.get("kind") == "served" and not figure["errors"]]
    assert served, said
    return served[-1]["items_per_s"]


def start(arguments, kind):
    url = f"http://127.0.0.1:{arguments.port}"
    begun = time.monotonic()
    loops = [multiprocessing.Process(target=spin, args=(BUSY,)) for _ in range(os.cpu_count() if kind == "busy" else 0)]
    for loop in loops:
        loop.start()
    command = [arguments.galley, "serve", "--device", "cpu", "--port", str(arguments.port), "--recipes", ",".join(RECIPES)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_ready(url)
        ready = time.monotonic() - begun
        place = 0
        while time.monotonic() < begun + BUSY + SETTLE:
            throughput(arguments, RECIPES[place % len(RECIPES)], url, 3)
            place += 1
        figures = {recipe: throughput(arguments, recipe, url, arguments.seconds) for recipe in RECIPES}
    finally:
        server.terminate()
        server.wait()
        for loop in loops:
            loop.join()
    return ready, figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galley", default="../../target/release/galley", help="the program")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long a throughput is taken")
    arguments = parser.parse_args()
    ratios = {recipe: [] for recipe in RECIPES}
    for number in range(arguments.rounds):
        # Which goes first alternates.
        kinds = ["quiet", "busy"][:: 1 if number % 2 == 0 else -1]
        seen = {}
        for kind in kinds:
            ready, seen[kind] = start(arguments, kind)
            for recipe, rate in seen[kind].items():
                print(json.dumps({"round": number, "start": kind, "ready_s": round(ready, 2), "recipe": recipe, "per_second": rate}), flush=True)
        for recipe in RECIPES:
            ratios[recipe].append(seen["busy"][recipe] / seen["quiet"][recipe])
    for recipe, values in ratios.items():
        print(f"{recipe}: {statistics.median(values):.3f} ({' '.join(f'{value:.3f}' for value in values)})")


if __name__ == "__main__":
    main()
