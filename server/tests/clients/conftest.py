"""Servers to try clients against: the program named by GALLEY, on ports of its own."""

import os
import pathlib
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]


class Server:
    """`galley serve`, from its ready line until it is closed."""

    def __init__(self, *arguments):
        command = [os.environ["GALLEY"], "--log", "warn", "serve", "--port", "0", "--grpc-port", "0", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GALLEY")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.line = self.process.stdout.readline()
        urls = [word for word in self.line.split() if "://" in word]
        assert len(urls) == 2, f"not ready: {self.line!r}"
        self.http, self.grpc = (url.split("://")[1] for url in urls)

    def close(self):
        """Drains it, which must work too."""
        self.process.terminate()
        assert self.process.wait(timeout=300) == 0


def serve(*arguments):
    server = Server(*arguments)
    yield server
    server.close()


@pytest.fixture(scope="session")
def server():
    """Several recipes."""
    yield from serve("--recipes", "echo,efficientnet_lite0,transformers_ner")


@pytest.fixture(scope="session")
def lone_server():
    """One recipe."""
    yield from serve("--recipes", "deepsegment_en")


@pytest.fixture(scope="session")
def photo():
    return (REPOSITORY / "recipes/efficientnet/examples/coffee.jpg").read_bytes()
