"""Messages from NATS into PostgreSQL by three workers, while everything that can break does. After each fault: one row for each id,
the right answer in each, nothing left in the stream and nothing pending."""

import argparse
import asyncio
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import nats

import bench
import buckets
import cluster
import encrypted
import jobs
import leaving
from messages import Batch, Images, Texts
from proxy import Proxy
from servers import Broker, Database, NotFound, until
from workers import Workers

WORKERS = 3
STREAM = "MESSAGES"
# After so long the broker delivers again, and has forgotten an id.
ACK_WAIT, WINDOW = 3, 3
Left = namedtuple("Left", "messages pending unacknowledged last")


class Test:
    def __init__(self, args, kind, servers, folder):
        self.args, self.kind, self.folder = args, kind, folder
        self.broker, self.database = servers
        self.name = kind.recipe
        self.database.create(self.name)
        self.stream = f"{STREAM}-{kind.recipe}"
        self.chance = random.Random(args.seed)
        self.to_broker, self.to_database = Proxy(self.broker.port), Proxy(self.database.port)
        for again in ("made the", "is there as it should be"):
            made = self.galley("stream", "setup", kind.recipe, "--from", self.source(), "--ack-wait", f"{ACK_WAIT}s",
                               "--duplicate-window", f"{WINDOW}s")
            assert made.count(again) == 2, made
        self.workers = self.crew("--attempts", "50")

    def crew(self, *args, options=None):
        options = self.kind.options if options is None else options
        command = [self.args.galley, "stream", self.kind.recipe, *options, *args]
        return Workers(command, self.folder / f"{self.name}.log")

    def galley(self, *args, stdin=None):
        done = subprocess.run([self.args.galley, *args], input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    def source(self, port=None):
        return f"nats://127.0.0.1:{port or self.broker.port}/{self.stream}"

    def start(self):
        # The first one's ways to both servers can be held up.
        for place in range(WORKERS):
            proxied = place == 0
            source = self.source(self.to_broker.port if proxied else None)
            table = self.database.url(self.name, self.to_database.port if proxied else None)
            self.workers.start(place, source, table)

    def feed(self, lines, *args):
        """Publishes, and gives how many the broker knew."""
        said = self.galley("feed", "-", "--to", self.source(), *args, stdin="\n".join(lines))
        assert f"published {len(lines)} messages" in said, said
        return int(said.split("the broker knew ")[1].split(",")[0])

    def rows(self, name):
        sql = f"SELECT id, status, answer::text, error, deliveries FROM galley_answers WHERE id LIKE '{name}-%'"
        return self.database.ask(sql, self.name)

    def count(self, name):
        try:
            return self.database.ask(f"SELECT count(*) FROM galley_answers WHERE id LIKE '{name}-%'", self.name)[0][0]
        except Exception:
            # It is not there, or has no table yet.
            return 0

    def left(self):
        """How many messages the stream has and how many are pending, and its last one's number."""

        async def ask():
            connection = await nats.connect(f"nats://127.0.0.1:{self.broker.port}", max_reconnect_attempts=1)
            try:
                js = connection.jetstream()
                stream = await js.stream_info(self.stream)
                consumer = await js.consumer_info(self.stream, f"galley-{self.kind.recipe}")
                state = stream.state
                return Left(state.messages, consumer.num_pending, consumer.num_ack_pending, state.last_seq)
            finally:
                await connection.close()

        return asyncio.run(ask())

    def phase(self, name, fault, count):
        """Publishes messages, lets something break, and looks at what came of it."""
        start, deaths = time.monotonic(), self.workers.deaths
        batch = Batch(self.kind, name, count, self.args.seed)
        self.known, self.note = 0, ""
        fault(batch)
        # The broker has forgotten the ids by then.
        time.sleep(WINDOW + 1)
        self.known += self.feed(batch.later)
        until(f"{name}: the stream is empty", lambda: self.left()[:3] == (0, 0, 0))
        rows = self.rows(name)
        self.check(batch, rows)
        died = self.workers.deaths - deaths
        again = sum(row[4] > 1 for row in rows)
        published = len(batch.lines) + len(batch.later)
        print(f"{self.name}: {name}: {published} published, {published - len(batch.expected)} of them duplicates "
              f"(the broker knew {self.known}), {batch.bad} bad; {len(rows)} rows, {again} not of the first delivery; "
              f"{died} workers died{self.note}; {time.monotonic() - start:.0f} s", flush=True)
        return died, again

    def check(self, batch, rows):
        found = {id: (status, answer, error) for id, status, answer, error, _ in rows}
        assert len(rows) == len(found) == len(batch.expected), (len(rows), len(found), len(batch.expected))
        assert found.keys() == batch.expected.keys()
        for id, expected in batch.expected.items():
            status, answer, error = found[id]
            if expected is None:
                assert status == "refused" and error, (id, status, answer, error)
            else:
                assert status == "ok" and self.kind.same(json.loads(answer), expected), (id, status, answer, error)

    def all_at_once(self, batch):
        self.known += self.feed(batch.lines)

    def kills(self, batch):
        """In each round one worker dies while there is work."""
        name = next(iter(batch.expected)).rsplit("-", 1)[0]
        for part in batch.parts(self.args.rounds):
            before = self.count(name)
            self.known += self.feed(part)
            more = self.chance.randrange(1 + len(part) // 4)
            until("rows are written", lambda: self.count(name) >= before + more)
            time.sleep(self.chance.random() / 10)
            self.workers.kill(self.chance.randrange(WORKERS))

    def broker_dies(self, batch):
        """While messages are worked on, and published: what the broker had not acknowledged is published again."""
        half = len(batch.lines) // 2
        self.known += self.feed(batch.lines[:half])
        before = self.left().last
        with ThreadPoolExecutor() as pool:
            rest = pool.submit(self.feed, batch.lines[half:], "--rate", f"{half / 5}/s")
            until("some are published", lambda: self.left().last > before)
            self.broker.kill()
            time.sleep(2)
            self.broker.start()
            self.known += rest.result()

    def database_stops(self, batch):
        self.known += self.feed(batch.lines)
        self.database.stop()
        time.sleep(self.args.outage)
        waiting = self.left().messages
        assert waiting > 0, "everything was written before the table was gone"
        self.note = f", {waiting} messages waited for the table {self.args.outage} s"
        self.database.start()

    def commits_are_cut(self, batch):
        lost = self.to_database.lost
        self.to_database.lose_answers(b"INSERT INTO galley_answers", 3)
        self.known += self.feed(batch.lines)
        until("a commit is cut", lambda: self.to_database.lost > lost)
        self.note = ", commits cut"

    def one_is_paused(self, batch):
        self.known += self.feed(batch.lines)
        time.sleep(0.2)
        self.workers.pause(0)
        time.sleep(2 * ACK_WAIT)
        self.workers.resume(0)

    def network_stalls(self, batch):
        self.known += self.feed(batch.lines)
        time.sleep(0.2)
        for proxy in (self.to_broker, self.to_database):
            proxy.stall()
        time.sleep(self.args.stall)
        for proxy in (self.to_broker, self.to_database):
            proxy.flow()

    def run(self):
        self.start()
        count = self.args.messages
        died, again = self.phase("kills", self.kills, count // 2)
        assert died >= self.args.rounds and again > 0, f"only {died} died, and {again} messages came again"
        faults = [
            ("broker", self.broker_dies),
            ("database", self.database_stops),
            ("commit", self.commits_are_cut),
            ("pause", self.one_is_paused),
            ("network", self.network_stalls),
        ]
        for name, fault in faults:
            died, _ = self.phase(name, fault, count // 2 // len(faults))
            assert died == 0, f"{died} workers died of a fault that is not theirs"
        ended = self.workers.end()
        assert ended == [0] * WORKERS, ended
        total = self.database.ask("SELECT count(*), count(DISTINCT id) FROM galley_answers", self.name)[0]
        begun = self.database.ask("SELECT count(*) FROM galley_begun", self.name)[0][0]
        assert begun == 0, f"{begun} messages are still said to be begun"
        print(f"{self.name}: in all {total[0]} rows of {total[1]} ids", flush=True)

    def poison(self):
        """A message that a worker dies of is given up, and the others pass."""
        self.workers = self.crew("--attempts", "3", options=["--option", "abort=poison"])
        for place in range(2):
            self.workers.start(place, self.source(), self.database.url(self.name))
        lines = [json.dumps(f"text {number}") for number in range(60)]
        self.feed([*lines[:30], "poison", *lines[30:]])
        until("the stream is empty", lambda: self.left()[:3] == (0, 0, 0))
        ended = self.workers.end()
        rows = self.database.ask("SELECT status, error FROM galley_answers WHERE answer IS NULL OR id NOT LIKE '%-%'",
                                 self.name)
        given_up = [error for status, error in rows if status == "gave_up"]
        assert len(rows) == 61 and len(given_up) == 1, rows
        assert "3 processes died" in given_up[0], given_up
        assert sorted(ended) == [0, 1], ended
        print(f"{self.name}: poison: {self.workers.deaths} workers died of it; {given_up[0]}; 60 others passed", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("galley")
    parser.add_argument("--messages", type=int, default=1000, help="published for each recipe, duplicates included")
    parser.add_argument("--rounds", type=int, default=4, help="kills of workers")
    parser.add_argument("--outage", type=float, default=5, help="for how many seconds PostgreSQL is stopped")
    parser.add_argument("--stall", type=float, default=12, help="for how many seconds the network stands still")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipes", default="echo,images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        servers = Broker(folder), Database(folder)
        test = None
        try:
            for recipe in args.recipes.split(","):
                kind = Texts() if recipe == "echo" else Images(args.galley, folder, NotFound().port)
                test = Test(args, kind, servers, folder)
                test.run()
                if recipe == "echo":
                    test.poison()
            test = None
            bench.run(args.galley, *servers)
            buckets.run(args.galley, folder)
            leaving.run(args.galley, *servers)
            jobs.run(args.galley, folder, servers[1])
            cluster.run(args.galley, folder, servers[1])
            encrypted.run(args.galley, folder, servers[1])
        except BaseException:
            for place, lines in test.workers.logs() if test else ():
                print(f"-- the log of worker {place}\n{''.join(lines)}", file=sys.stderr)
            raise
        finally:
            if test:
                test.workers.end()
            servers[0].kill()
            servers[1].stop()


main()
