"""Asynchronous requests in a table that replicas share, in SQLite and in PostgreSQL, while replicas die, stand still and leave and
the table goes away: what was accepted is answered, once, by whoever is asked."""

import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

from servers import until

COUNT = 200
Said = namedtuple("Said", "status headers answer")


class File:
    """A table in SQLite."""

    name = "SQLite"

    def __init__(self, folder):
        self.folder = folder

    def create(self, name):
        self.url = str(self.folder / f"{name}.db")

    def ask(self, sql):
        connection = sqlite3.connect(self.url)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def is_free(self):
        connection = sqlite3.connect(self.url, isolation_level=None, timeout=0.2)
        try:
            connection.execute("BEGIN IMMEDIATE")
            return True
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()

    def stop(self):
        """Somebody else writes, and does not come to an end."""
        self.locked = sqlite3.connect(self.url, isolation_level=None)
        self.locked.execute("BEGIN IMMEDIATE")

    def start(self):
        self.locked.execute("ROLLBACK")
        self.locked.close()


class Server:
    """A table in PostgreSQL."""

    name = "PostgreSQL"

    def __init__(self, database):
        self.database = database

    def create(self, name):
        self.database.create(name)
        self.url, self.of = self.database.url(name), name

    def ask(self, sql):
        return self.database.ask(sql, self.of)

    def is_free(self):
        return True

    def stop(self):
        self.database.stop()

    def start(self):
        self.database.start()


class Dead(Exception):
    """It does not serve."""


class Replica:
    def __init__(self, galley, table, log, *args, sleep="0s", lease="2s"):
        command = [galley, "serve", "--recipes", "echo", "--port", "0", "--job-lease", lease, "--option", f"echo.sleep={sleep}"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("GALLEY_")}
        env["GALLEY_JOBS"] = table.url
        self.process = subprocess.Popen([*command, *args], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=open(log, "a"), text=True)
        line = self.process.stdout.readline()
        if not line:
            raise Dead(open(log).read()[-2000:])
        self.url = re.search(r"http://\S+", line)[0]

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=60) as answer:
                return Said(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Said(error.code, error.headers, error.read())

    def submit(self, id, text):
        return self.ask(f"/infer?async=true&unique_id={id}", [text])

    def submit_all(self, ids):
        with ThreadPoolExecutor(16) as pool:
            accepted = list(pool.map(lambda id: self.submit(id, f"text {id}"), ids))
        assert all(said.status == 200 for said in accepted), [said for said in accepted if said.status != 200]

    def result(self, id):
        """An answer, or nothing while there is none."""
        said = self.ask(f"/result?unique_id={id}")
        answer = json.loads(said.answer)
        assert said.status == 200, said
        return answer["prediction"] if answer["success"] else None

    def answered(self, ids):
        return sum(self.result(id) == [f"text {id}"] for id in ids)

    def events(self, event):
        text = self.ask("/metrics").answer.decode()
        return int(re.search(rf'galley_jobs_total{{recipe="echo",event="{event}"}} (\d+)', text)[1])

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.terminate()
        return self.process.wait()


class Test:
    def __init__(self, galley, folder, table):
        self.galley, self.table, self.log = galley, table, folder / "jobs.log"
        self.replicas = []

    def start(self, *args, **more):
        replica = Replica(self.galley, self.table, self.log, *args, **more)
        self.replicas.append(replica)
        return replica

    def say(self, *words):
        print(f"jobs in {self.table.name}:", *words, flush=True)

    def run(self):
        for number, test in enumerate((self.killed, self.paused, self.leaves, self.poisoned, self.away)):
            self.table.create(f"jobs{number}")
            try:
                test()
            except BaseException:
                print(f"-- the replicas' log\n{self.log.read_text()[-6000:]}", flush=True)
                raise
            finally:
                for replica in self.replicas:
                    replica.signal(signal.SIGCONT)
                    replica.kill()
                self.replicas.clear()

    def killed(self):
        ids = [f"job-{number}" for number in range(COUNT)]
        first, other = self.start("--max-batch-size", "1", sleep="100ms", lease="5s"), self.start()
        first.submit_all(ids)
        until("some are answered", lambda: other.answered(ids[:20]) >= 5)
        first.kill()
        before = self.table.ask("SELECT count(*) FROM galley_jobs WHERE status IS NOT NULL")[0][0]
        assert before < COUNT, "it was too quick to leave anything behind"
        until("the other answers all", lambda: other.answered(ids) == COUNT)
        taken = other.events("taken_over")
        assert taken == COUNT - before, (taken, before)
        rows = self.table.ask("SELECT count(*), count(DISTINCT id), count(DISTINCT owner), count(body) FROM galley_jobs")[0]
        assert rows == (COUNT, COUNT, 2, 0), rows
        self.say(f"{COUNT} accepted by a replica that was killed after {before} answers; the other took over {taken}, "
                 f"and answers {other.answered(ids)}")

    def paused(self):
        ids = [f"slow-{number}" for number in range(20)]
        first, other = self.start("--max-batch-size", "32", sleep="5s"), self.start()
        first.submit_all(ids)

        def stands_still():
            """Not in the middle of writing to the file, which nobody else could write to then."""
            first.signal(signal.SIGSTOP)
            if not (free := self.table.is_free()):
                first.signal(signal.SIGCONT)
            return free

        until("the first stands still", stands_still)
        until("the other answers all", lambda: other.answered(ids) == len(ids))
        rows = "SELECT id, owner, lease, ended_at, status, answer FROM galley_jobs ORDER BY id"
        before = self.table.ask(rows)
        assert len({row[1] for row in before}) == 1, "the first has answered some"
        first.signal(signal.SIGCONT)
        until("the first has come to its answers", lambda: first.events("superseded") == len(ids))
        assert self.table.ask(rows) == before, "what was answered has changed"
        self.say(f"a replica that stood still past its lease dropped {first.events('superseded')} answers; none of the other's "
                 f"{other.events('taken_over')} has changed")

    def leaves(self):
        ids = [f"left-{number}" for number in range(COUNT)]
        # Nobody would wait for this lease to end.
        first = self.start("--max-batch-size", "1", sleep="100ms", lease="10h")
        other = self.start()
        first.submit_all(ids)
        until("some are answered", lambda: other.answered(ids[:20]) >= 5)
        assert first.end() == 0
        soon = int(1000 * (time.time() + 3600))
        left = self.table.ask(f"SELECT count(*) FROM galley_jobs WHERE status IS NULL AND lease_until > {soon}")[0][0]
        assert left == 0, f"{left} wait for a lease to end"
        until("the other answers all", lambda: other.answered(ids) == COUNT)
        taken = other.events("taken_over")
        assert 0 < taken < COUNT, taken
        worst = self.table.ask("SELECT max(attempts) FROM galley_jobs")[0][0]
        assert worst == 1, f"an end counted as an attempt: {worst}"
        self.say(f"a replica that was asked to end answered {COUNT - taken} and gave {taken} back, which the other answered at once")

    def poisoned(self):
        ids = [f"text-{number}" for number in range(60)]
        # How many passes 30 take must not hang on what a replica has measured in idle moments: at one a pass they are refused.
        args = ["--option", "echo.abort=poison", "--job-attempts", "3", "--max-batch-size", "8"]
        replicas, deaths = [self.start(*args, sleep="2s") for _ in range(2)], 0

        def anybody(ask):
            """What one of them says; those that have died are started again."""
            nonlocal deaths
            for place, replica in enumerate(replicas):
                try:
                    if replica.process.poll() is not None:
                        deaths += 1
                        replicas[place] = self.start(*args)
                    return ask(replicas[place])
                except (OSError, http.client.HTTPException, Dead):
                    # It is dying.
                    pass
            return None

        # These are in hand when it comes.
        replicas[0].submit_all(ids[:30])
        for id in ["poison", *ids[30:]]:
            text = "poison" if id == "poison" else f"text {id}"
            until("it is accepted", lambda: (said := anybody(lambda replica: replica.submit(id, text))) and said.status == 200)
        until("the others are answered", lambda: anybody(lambda replica: replica.answered(ids)) == len(ids))

        def given_up():
            said = anybody(lambda replica: replica.ask("/result?unique_id=poison"))
            return said and said.status == 500 and json.loads(said.answer)["reason"]

        reason = until("it is given up", given_up)
        deaths += sum(replica.process.poll() is not None for replica in replicas)
        assert "3 processes ended" in reason and deaths == 3, (reason, deaths)
        worst = self.table.ask("SELECT max(attempts) FROM galley_jobs WHERE id <> 'poison'")[0][0]
        assert worst > 1, "no neighbour was in hand"
        self.say(f"poison: {deaths} replicas died of it; {reason}; {len(ids)} others answered, in at most {worst} attempts")

    def away(self):
        # Nobody else could take what it has.
        replica = self.start(sleep="5s", lease="10h")
        replica.submit_all(["before"])
        self.table.stop()
        refused = replica.submit("while", "text while")
        assert refused.status == 503 and refused.headers["Retry-After"], refused
        assert replica.ask("/result?unique_id=before").status in (200, 503)
        assert replica.ask("/infer", ["waited for"]).status == 200, "a synchronous request needs no table"
        assert replica.ask("/readyz").status == 200
        retried = until("its answer has no place", lambda: replica.events("retried"))
        self.table.start()
        until("it is answered", lambda: replica.answered(["before"]))
        assert replica.events("superseded") == 0
        until("one more is accepted", lambda: replica.submit("after", "text after").status == 200)
        until("and answered", lambda: replica.answered(["after"]))
        assert replica.end() == 0
        self.say(f"away: refused with 503, synchronous ones answered, an answer written after it was tried {retried} times in vain")


def run(galley, folder, database):
    for table in (File(folder), Server(database)):
        Test(galley, folder, table).run()
