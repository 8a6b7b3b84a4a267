"""Simulates workers that share one durable consumer of JetStream, and die, stall, leave and come.

    python3 stream_simulation.py [--workers 50] [--rate 10000] [--items-per-s 250] [--seeds 5]

Nothing is measured here: it is about what follows from the rules. Those are NATS': a message is out until it is acknowledged,
what is out for longer than the ack wait without a word from its worker is delivered again, before anything new, and an
acknowledgement counts whichever delivery it is for. And Galley's: a worker has two seconds' worth of messages in hand, at least
four batches, says so for them three times each ack wait, commits rows under a key, and acknowledges what is committed. Some
acknowledgements are lost. At the end of each run: every message has a row and none has two, whatever died; the same checks have
to fail for workers that acknowledge before they commit, and for a table without a key.
"""

import argparse
import collections
import heapq
import itertools
import random
import statistics

WRITE, ACK = 0.06, 0.002  # from an answer to its row's commit, with what gathers rows; and from there to the broker
LOST_ACKS = 0.001
OUT = 65_536  # the consumer's max_ack_pending


class Worker:
    def __init__(self):
        self.epoch, self.alive, self.leaving, self.busy, self.stalled = 0, True, False, False, 0.0
        self.queue = collections.deque()
        self.hand = {}  # a message in hand: when it was delivered


class Run:
    def __init__(self, args, seed, *, ack_wait=30.0, deaths=True, backlog=False, early=False, key=True):
        self.args, self.ack_wait, self.early, self.key = args, ack_wait, early, key
        self.random, self.now, self.events, self.order = random.Random(seed), 0.0, [], itertools.count()
        self.window = max(4 * args.batch, int(2 * args.items_per_s))
        self.fresh, self.again, self.out = collections.deque(), collections.deque(), {}
        self.published, self.rows, self.answered, self.acked = [], collections.Counter(), {}, set()
        self.computed = self.duplicates = self.redelivered = self.down = self.generation = 0
        self.ends = {"killed": [], "left": []}  # of workers: when, and what they had in hand
        self.workers = [Worker() for _ in range(args.workers)]
        if backlog:
            self.publish(int(args.items_per_s * args.workers * args.seconds * 1.2))
        else:
            self.at(0.0, self.feed)
        if deaths:
            for worker in self.workers:
                self.at(self.random.expovariate(1 / args.lifetime), self.end, worker)

    def at(self, time, action, *arguments):
        heapq.heappush(self.events, (time, next(self.order), action, arguments))

    def until(self, end):
        """Everything that happens before `end`, or until nothing more does."""
        while self.events and self.events[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(self.events)
            action(*arguments)
        return self

    # The producer.
    def feed(self, step=0.02):
        if self.now < self.args.seconds - step / 2:
            self.publish(int(self.args.rate * step))
            self.at(self.now + step, self.feed)

    def publish(self, count):
        self.fresh.extend(range(len(self.published), len(self.published) + count))
        self.published.extend([self.now] * count)
        self.offer()

    # The broker.
    def offer(self):
        """To the workers in turn, as the broker does with pulls that wait."""
        hungry = [worker for worker in self.workers if self.room(worker) > 0]
        self.random.shuffle(hungry)
        fed = hungry
        while hungry and (self.again or self.fresh):
            for worker in hungry:
                self.deliver(worker)
            hungry = [worker for worker in hungry if self.room(worker) > 0]
        for worker in fed:
            self.compute(worker)

    def room(self, worker):
        if not worker.alive or worker.leaving or worker.stalled > self.now:
            return 0
        return min(self.window - len(worker.hand), OUT - len(self.out))

    def deliver(self, worker):
        while self.again or self.fresh:
            message = (self.again or self.fresh).popleft()
            if message in self.acked:
                continue  # by a delivery that was thought lost
            self.generation += 1
            self.out[message] = self.generation
            worker.hand[message] = self.now
            worker.queue.append(message)
            if self.early:
                self.acknowledge(message)
            return

    def pull(self, worker):
        for _ in range(min(self.room(worker), len(self.again) + len(self.fresh))):
            self.deliver(worker)
        self.compute(worker)

    def acknowledge(self, message):
        self.out.pop(message, None)
        self.acked.add(message)

    def forget(self, message, delivered, worker=None):
        """Nobody speaks for this message any more, or not while its worker stands still: it comes again in time."""
        spoken = delivered + (self.now - delivered) // (self.ack_wait / 3) * (self.ack_wait / 3)
        self.at(spoken + self.ack_wait, self.expire, message, self.out.get(message), worker)

    def expire(self, message, generation, worker):
        if self.out.get(message) == generation is not None and (worker is None or worker.stalled > self.now):
            del self.out[message]
            self.again.append(message)
            self.redelivered += 1
            self.offer()

    # A worker.
    def compute(self, worker):
        if worker.busy or not worker.queue or not worker.alive or worker.stalled > self.now:
            return
        batch = [worker.queue.popleft() for _ in range(min(self.args.batch, len(worker.queue)))]
        worker.busy = True
        self.at(self.now + len(batch) / self.args.items_per_s, self.computed_batch, worker, worker.epoch, batch)

    def computed_batch(self, worker, epoch, batch):
        if worker.epoch != epoch:
            return
        if worker.stalled > self.now:
            self.at(worker.stalled, self.computed_batch, worker, epoch, batch)
            return
        self.computed += len(batch)
        worker.busy = False
        self.at(self.now + WRITE, self.commit, worker, epoch, batch)
        self.compute(worker)

    def commit(self, worker, epoch, batch):
        if worker.epoch != epoch:
            return
        for message in batch:
            if self.key and message in self.rows:
                self.duplicates += 1
                continue
            self.rows[message] += 1
            self.answered.setdefault(message, self.now)
        self.at(self.now + ACK, self.acked_batch, worker, epoch, batch)

    def acked_batch(self, worker, epoch, batch):
        if worker.epoch != epoch:
            return
        for message in batch:
            delivered = worker.hand.pop(message, None)
            if self.random.random() >= LOST_ACKS:
                self.acknowledge(message)
            elif delivered is not None:
                self.forget(message, delivered)
        if worker.leaving and not worker.hand:
            self.gone(worker)
        self.pull(worker)

    # What happens to workers: they are killed, told to go, or stand still for longer than the ack wait.
    def end(self, worker):
        if self.now > self.args.seconds:
            return
        what = self.random.choices(["killed", "left", "stalled"], [3, 2, 1])[0]
        unanswered = [message for message in worker.hand if message not in self.rows]
        if what == "killed":
            for message, delivered in worker.hand.items():
                self.forget(message, delivered)
            self.ends["killed"].append((self.now, unanswered))
            self.gone(worker)
        elif what == "left":
            self.ends["left"].append((self.now, unanswered))
            worker.leaving = True
            for message in worker.queue:
                if self.out.pop(message, None):
                    self.again.append(message)
                worker.hand.pop(message, None)
            worker.queue.clear()
            if not worker.hand:
                self.gone(worker)
            self.offer()
        else:
            worker.stalled = self.now + 2 * self.ack_wait
            for message, delivered in worker.hand.items():
                self.forget(message, delivered, worker)
            self.absent(2 * self.ack_wait)
            self.at(worker.stalled, self.pull, worker)
            self.at(worker.stalled + self.random.expovariate(1 / self.args.lifetime), self.end, worker)

    def gone(self, worker):
        worker.epoch, worker.alive, worker.leaving, worker.busy = worker.epoch + 1, False, False, False
        worker.hand, worker.queue = {}, collections.deque()
        self.absent(self.args.restart)
        self.at(self.now + self.args.restart, self.come, worker)

    def absent(self, time):
        self.down += max(0.0, min(time, self.args.seconds - self.now))

    def come(self, worker):
        worker.alive = True
        self.at(self.now + self.random.expovariate(1 / self.args.lifetime), self.end, worker)
        self.pull(worker)

    # What came of it.
    def wrong(self):
        """Messages without a row, and with two."""
        return len(self.published) - len(self.rows), sum(count > 1 for count in self.rows.values())

    def tails(self, what):
        """For each worker that ended so with something in hand: how long its last message waited for its row."""
        return [max(self.answered[m] for m in held) - when for when, held in self.ends[what] if held]

    def waits(self):
        return [self.answered[message] - published for message, published in enumerate(self.published)]


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--rate", type=float, default=10_000, help="messages published a second")
    parser.add_argument("--items-per-s", type=float, default=250, help="of one worker: what `galley bench stream` says")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--lifetime", type=float, default=300, help="mean seconds between two misfortunes of a worker")
    parser.add_argument("--restart", type=float, default=20, help="seconds until one that ended is there again")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    seeds, load = range(args.seeds), args.rate / (args.workers * args.items_per_s)
    print(f"{args.workers} workers of {args.items_per_s:g}/s, {args.rate:g} messages a second ({load:.0%} of that) for ", end="")
    print(f"{args.seconds:g} s, {args.seeds} seeds;")
    print(f"to each worker something happens every {args.lifetime:g} s: 3 of 6 are killed, 2 told to go, 1 stands still")
    print(f"for two ack waits; who went is there again after {args.restart:g} s.\n")

    print("| ack wait | messages | killed / left | delivered again | computed twice | without a row / with two |", end="")
    print(" tail after a kill, median / worst | after leaving | publish to row, p50 / p99 / worst |")
    print("|" + " --- |" * 9)
    for ack_wait in (5.0, 15.0, 30.0, 60.0):
        runs = [Run(args, seed, ack_wait=ack_wait).until(float("inf")) for seed in seeds]
        total = lambda of: sum(map(of, runs))
        wrong = [sum(numbers) for numbers in zip(*(run.wrong() for run in runs))]
        assert wrong == [0, 0], f"expected a row for each message, got {wrong[0]} without and {wrong[1]} with two"
        assert all(not run.out and len(run.acked) == len(run.published) for run in runs), "something was left in the stream"
        killed, left = ([tail for run in runs for tail in run.tails(what)] for what in ("killed", "left"))
        waits = [wait for run in runs for wait in run.waits()]
        messages = total(lambda run: len(run.published))
        print(f"| {ack_wait:g} s | {messages} | {len(killed)} / {len(left)} | {total(lambda run: run.redelivered)} ", end="")
        print(f"| {total(lambda run: run.computed) / messages - 1:.2%} | {wrong[0]} / {wrong[1]} ", end="")
        for tails in (killed, left):
            print(f"| {statistics.median(tails):.1f} s / {max(tails):.1f} s ", end="")
        print(f"| {quantile(waits, 0.5):.2f} s / {quantile(waits, 0.99):.1f} s / {max(waits):.1f} s |", flush=True)

    print("\nWith a backlog, ack wait 30 s, of what the workers could do:\n")
    print("| | rows a second | lost to absence | to computing twice, and waiting |\n|" + " --- |" * 4)
    for name, deaths in (("nobody ends", False), ("as above", True)):
        runs = [Run(args, seed, deaths=deaths, backlog=True).until(args.seconds) for seed in seeds]
        rows = statistics.mean(len(run.rows) for run in runs) / args.seconds
        possible = args.workers * args.items_per_s
        absent = statistics.mean(run.down for run in runs) / (args.workers * args.seconds)
        print(f"| {name} | {rows:.0f} | {absent:.1%} | {1 - rows / possible - absent:.1%} |", flush=True)

    print("\nWhat the checks are worth, ack wait 30 s:\n")
    print("| | messages | without a row | with two |\n|" + " --- |" * 4)
    for name, options in (("acknowledged before the commit", {"early": True}), ("a table without a key", {"key": False})):
        runs = [Run(args, seed, **options).until(float("inf")) for seed in seeds]
        wrong = [sum(numbers) for numbers in zip(*(run.wrong() for run in runs))]
        assert any(wrong), f"{name}: the checks see nothing"
        print(f"| {name} | {sum(len(run.published) for run in runs)} | {wrong[0]} | {wrong[1]} |", flush=True)


main()
