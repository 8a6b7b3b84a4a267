"""The way to both servers encrypted, with a user and a password, and refused where the certificate is by nobody known."""

import json
import os
import shutil
import subprocess

from servers import Broker, until

COUNT = 100
STREAM = "ENCRYPTED"


def certificate(folder):
    """One that is its own authority, for this host."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=galley", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    return cert, key


def run(galley, folder, database):
    if not shutil.which("openssl"):
        print("SKIPPED: encrypted connections were not tried: there is no openssl")
        return
    cert, key = certificate(folder)
    broker = Broker(folder, f'tls {{ cert_file: "{cert}", key_file: "{key}" }}\n'
                            'authorization { user: me, password: "se/cret" }\n')
    database.encrypt(cert, key)
    database.create("encrypted")
    source = f"tls://me:se%2Fcret@127.0.0.1:{broker.port}/{STREAM}"
    table = database.url("encrypted") + "?sslmode=require"
    trusting = os.environ | {"SSL_CERT_FILE": str(cert)}

    def ask(*args, env=trusting, stdin=None):
        return subprocess.run([galley, *args], env=env, input=stdin, capture_output=True, text=True)

    try:
        setup = ["stream", "setup", "echo", "--from", source]
        for wrong in (ask(*setup, env=os.environ), ask(*setup[:-1], source.replace("se%2F", ""))):
            assert wrong.returncode == 1 and "cannot reach" in wrong.stderr, wrong
            assert "cret@" not in wrong.stderr, wrong.stderr
        assert ask(*setup).returncode == 0
        lines = "\n".join(json.dumps({"id": str(number)}) for number in range(COUNT))
        fed = ask("feed", "-", "--to", source, stdin=lines)
        assert f"published {COUNT} messages" in fed.stdout, fed
        refused = ask("stream", "echo", "--from", source, "--to", table, env=os.environ)
        assert refused.returncode != 0 and "certificate" in refused.stderr, refused
        worker = subprocess.Popen([galley, "stream", "echo", "--from", source, "--to", table], env=trusting,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            count = "SELECT count(*) FROM galley_answers"
            until("all are written", lambda: is_there(database) and database.ask(count, "encrypted")[0][0] == COUNT)
            sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'galley'"
            assert database.ask(sql)[0][0], "it is not encrypted"
        finally:
            worker.terminate()
            said = worker.stderr.read()
        assert worker.wait() == 0 and "cret" not in said, said
        print(f"encrypted: {COUNT} rows over TLS to both servers; an unknown certificate and a wrong password are refused",
              flush=True)
    finally:
        broker.kill()


def is_there(database):
    return database.ask("SELECT to_regclass('galley_answers') IS NOT NULL", "encrypted")[0][0]
