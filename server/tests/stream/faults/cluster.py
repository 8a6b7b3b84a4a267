"""Three brokers that keep each message three times: the one that leads the stream dies while messages are published and worked on."""

import asyncio
import json
import os
import subprocess

import nats

from servers import Broker, free_port, until

COUNT = 1000
STREAM = "REPLICATED"


class Brokers:
    def __init__(self, folder):
        routes = [free_port() for _ in range(3)]
        others = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        self.brokers = {}
        for place, port in enumerate(routes):
            more = (f"server_name: broker{place}\n"
                    f'cluster {{ name: brokers, listen: "127.0.0.1:{port}", routes: [{others}] }}\n')
            self.brokers[f"broker{place}"] = Broker(folder, more)
        self.hosts = ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers.values())

    def ask(self, question):
        """What one of them says, or nothing while they elect a leader."""

        async def connected():
            servers = [f"nats://{host}" for host in self.hosts.split(",")]
            connection = await nats.connect(servers, max_reconnect_attempts=1, error_cb=ignore)
            try:
                return await question(connection.jetstream())
            finally:
                await connection.close()

        try:
            return asyncio.run(connected())
        except Exception:
            return None

    def leader(self):
        async def question(js):
            return (await js.stream_info(STREAM)).cluster.leader

        return self.ask(question)

    def is_empty(self):
        async def question(js):
            stream = await js.stream_info(STREAM)
            consumer = await js.consumer_info(STREAM, "galley-echo")
            return (stream.state.messages, consumer.num_pending, consumer.num_ack_pending) == (0, 0, 0)

        return self.ask(question)

    def kill(self):
        for broker in self.brokers.values():
            broker.kill()


async def ignore(_):
    """One of them is dead."""


def run(galley, folder, database):
    brokers = Brokers(folder)
    database.create("replicated")
    source = f"nats://{brokers.hosts}/{STREAM}"
    environment = os.environ | {"GALLEY_STREAM_FROM": source, "GALLEY_STREAM_TO": database.url("replicated")}
    setup = [galley, "stream", "setup", "echo", "--replicas", "3", "--ack-wait", "3s"]
    command = [galley, "stream", "echo", "--option", "sleep=100ms", "--max-batch-size", "8"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    workers = []
    try:
        until("they have a leader", lambda: subprocess.run(setup, **quiet).returncode == 0)
        workers = [subprocess.Popen(command, **quiet) for _ in range(2)]
        lines = "\n".join(json.dumps({"id": str(number)}) for number in range(COUNT))
        feed = subprocess.Popen([galley, "feed", "-", "--to", source, "--rate", f"{COUNT // 10}/s"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        feed.stdin.write(lines)
        feed.stdin.close()
        is_there = "SELECT to_regclass('galley_answers') IS NOT NULL"
        count = "SELECT count(*) FROM galley_answers"
        until("there is a table", lambda: database.ask(is_there, "replicated")[0][0])
        until("rows are written", lambda: database.ask(count, "replicated")[0][0] > COUNT // 20)
        leader = until("the stream has a leader", brokers.leader)
        brokers.brokers[leader].kill()
        before = database.ask(count, "replicated")[0][0]
        next_leader = until("it has another", lambda: (now := brokers.leader()) != leader and now)
        said = feed.stdout.read()
        assert feed.wait() == 0 and f"published {COUNT} messages" in said, said
        until("the stream is empty", brokers.is_empty)
        rows = database.ask("SELECT count(*), count(DISTINCT id) FROM galley_answers WHERE status = 'ok'", "replicated")[0]
        assert rows == (COUNT, COUNT), rows
        assert all(worker.poll() is None for worker in workers), "a worker ended"
        print(f"cluster: {leader} led and was killed after {before} rows, {next_leader} led then; {COUNT} rows of {COUNT} ids",
              flush=True)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
        brokers.kill()
