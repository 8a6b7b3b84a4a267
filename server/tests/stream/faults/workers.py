"""Workers that are started again when they die, as whatever runs them would do it."""

import os
import signal
import subprocess
import threading
import time


class Workers:
    """Some `galley stream` of one recipe; each may have a way of its own to the broker and the database."""

    def __init__(self, command, log):
        self.command = command
        self.log = log
        self.lock = threading.Lock()
        self.processes = {}
        self.deaths = 0
        self.ends = False
        threading.Thread(target=self.watch, daemon=True).start()

    def start(self, place, source, table):
        with self.lock:
            self.processes[place] = (self.spawn(place, source, table), source, table)

    def spawn(self, place, source, table):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("GALLEY_", "AWS_"))}
        env |= {"GALLEY_STREAM_FROM": source, "GALLEY_STREAM_TO": table, "GALLEY_LOG": "info"}
        log = open(f"{self.log}.{place}", "a")
        return subprocess.Popen(self.command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def watch(self):
        while not self.ends:
            with self.lock:
                for place, (process, source, table) in self.processes.items():
                    if process.poll() is not None and not self.ends:
                        self.deaths += 1
                        self.processes[place] = (self.spawn(place, source, table), source, table)
            time.sleep(0.05)

    def process(self, place):
        with self.lock:
            return self.processes[place][0]

    def kill(self, place):
        """Without a chance to say anything."""
        self.process(place).kill()

    def pause(self, place):
        self.process(place).send_signal(signal.SIGSTOP)

    def resume(self, place):
        self.process(place).send_signal(signal.SIGCONT)

    def terminate(self, place):
        """Asks one to end, and gives its exit status; it is not started again."""
        with self.lock:
            process, _, _ = self.processes.pop(place)
        process.terminate()
        return process.wait()

    def end(self):
        """All of them end as they are asked to."""
        self.ends = True
        with self.lock:
            processes = [process for process, _, _ in self.processes.values()]
        for process in processes:
            process.terminate()
        return [process.wait() for process in processes]

    def logs(self):
        for place in self.processes:
            with open(f"{self.log}.{place}") as log:
                yield place, log.readlines()[-30:]
