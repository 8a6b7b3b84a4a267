"""A network of our own between a worker and a server: it can stand still, and break at the worst moment."""

import socket
import threading

CHUNK = 1 << 16


class Proxy:
    """Carries bytes to and from a port, until told otherwise."""

    def __init__(self, port):
        self.to = port
        self.flows = threading.Event()
        self.flows.set()
        # Answers to requests with this text are lost, so many times, and the connection with them.
        self.lost_on = None
        self.to_lose = 0
        self.lost = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def stall(self):
        """Nothing comes through, and nobody is told."""
        self.flows.clear()

    def flow(self):
        self.flows.set()

    def lose_answers(self, text, times):
        """What was asked for happens; that it did is never heard of."""
        with self.lock:
            self.lost_on, self.to_lose = text, times

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.connect, args=(client,), daemon=True).start()

    def connect(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.to))
        except OSError:
            client.close()
            return
        pair = Pair(client, server)
        threading.Thread(target=self.carry, args=(pair, client, server, True), daemon=True).start()
        self.carry(pair, server, client, False)

    def carry(self, pair, source, sink, is_request):
        try:
            while chunk := source.recv(CHUNK):
                self.flows.wait()
                if is_request and self.is_to_be_lost(chunk):
                    pair.is_deaf = True
                if not is_request and pair.is_deaf:
                    # The server has answered, so it has happened.
                    break
                sink.sendall(chunk)
        except OSError:
            pass
        pair.close()

    def is_to_be_lost(self, chunk):
        with self.lock:
            if self.to_lose == 0 or self.lost_on not in chunk:
                return False
            self.to_lose -= 1
            self.lost += 1
            return True


class Pair:
    """Two connections that end together."""

    def __init__(self, *sockets):
        self.sockets = sockets
        self.is_deaf = False

    def close(self):
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
