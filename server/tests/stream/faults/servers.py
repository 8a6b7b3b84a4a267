"""A broker, a database and a file server of our own, each in a temporary folder, to be killed and started again."""

import http.server
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import psycopg

# What has not happened after this time never will.
PATIENCE = 600


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(what, holds):
    """Waits until something holds, and gives what it is."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"it has not happened: {what}"
        time.sleep(0.02)
    return found


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Broker:
    """NATS with JetStream, which says that it has what is on the disk."""

    def __init__(self, folder, more=""):
        self.port = free_port()
        self.folder = folder
        self.program = pathlib.Path(sys.executable).parent / "nats-server"
        config = folder / f"nats-{self.port}.conf"
        store = folder / f"nats-{self.port}"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{store}", sync_interval: always }}\n{more}'
        )
        self.config = config
        self.process = None
        self.start()

    def start(self):
        log = open(self.folder / "nats.log", "a")
        self.process = subprocess.Popen([self.program, "--config", self.config], stdout=log, stderr=log)
        until("the broker listens", lambda: listens(self.port))

    def kill(self):
        self.process.kill()
        self.process.wait()


class Database:
    """PostgreSQL as an unprivileged user, as it refuses to run as root."""

    def __init__(self, folder):
        versions = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        found = shutil.which("initdb")
        self.bin = versions[-1] if versions else pathlib.Path(found).parent
        self.port = free_port()
        self.folder = folder / "postgres"
        self.folder.mkdir()
        if os.getuid() == 0:
            shutil.chown(self.folder, "nobody")
        self.data = self.folder / "data"
        self.run("initdb", "-D", self.data, "-A", "trust", "-U", "galley", "-E", "UTF8")
        self.start()

    def run(self, program, *args):
        command = [self.bin / program, *args]
        if os.getuid() == 0:
            command = ["runuser", "-u", "nobody", "--", *command]
        env = os.environ | {"LC_ALL": "C"}
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        subprocess.run(command, check=True, cwd="/", env=env, **quiet)

    def start(self):
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories=''"
        self.run("pg_ctl", "-D", self.data, "-w", "-o", options, "-l", self.folder / "log", "start")

    def stop(self):
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def encrypt(self, cert, key):
        """From now on connections may be encrypted."""
        for name, file in (("server.crt", cert), ("server.key", key)):
            own = self.data / name
            shutil.copy(file, own)
            if os.getuid() == 0:
                shutil.chown(own, "nobody")
            own.chmod(0o600)
        self.ask("ALTER SYSTEM SET ssl = on")
        self.ask("SELECT pg_reload_conf()")
        until("it is encrypted", lambda: self.ask("SHOW ssl")[0][0] == "on")

    def url(self, name="postgres", port=None):
        return f"postgres://galley@127.0.0.1:{port or self.port}/{name}"

    def create(self, name):
        self.ask(f"CREATE DATABASE {name}")

    def ask(self, sql, name="postgres"):
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


class NotFound:
    """Answers 404 to everything."""

    def __init__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(404)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
