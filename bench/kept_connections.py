"""What a client on the loopback can know when a kept connection ends without an answer: does the error tell that the app
has read nothing? Behind docs/design/0007. Linux, Python 3, no packages: python3 bench/kept_connections.py [RACES]
"""

import collections
import errno
import random
import socket
import struct
import sys
import threading
import time

REQUEST = b"x" * 300
ANSWER = b"y" * 100


def acknowledged(connection):
    """Bytes that the other side's kernel has said it has (tcpi_bytes_acked)."""
    return struct.unpack_from("Q", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232), 120)[0]


def kept():
    """Both ends of a connection on which one request has been answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        app, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(REQUEST)
    app.recv(1000)
    app.sendall(ANSWER)
    client.recv(1000)
    return client, app


def error(client, patience):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            return errno.errorcode[code]
    return "no error"


def closed_before(client, app):
    app.close()
    client.sendall(REQUEST)


def part_read(client, app):
    client.sendall(REQUEST)
    app.recv(100)
    app.close()


def all_read(client, app):
    client.sendall(REQUEST)
    app.recv(1000)
    app.close()


def ended_then_part_read(client, app):
    app.shutdown(socket.SHUT_WR)
    client.sendall(REQUEST)
    app.recv(100)
    app.close()


def in_two_pieces(client, app):
    all_read(client, app)
    client.sendall(REQUEST)


def look(case, rounds):
    seen = collections.Counter()
    for _ in range(rounds):
        client, app = kept()
        before = acknowledged(client)
        case(client, app)
        what = error(client, 0.05)
        seen[what, "acknowledged" if acknowledged(client) > before else "not acknowledged"] += 1
        client.close()
        app.close()
    return dict(seen)


def race(rounds):
    """An app that closes at random moments, as an idle timeout does; and requests that come at random moments."""
    listener = socket.create_server(("127.0.0.1", 0))
    done, read = threading.Semaphore(0), [False]

    def serve():
        while True:
            app, _ = listener.accept()
            app.recv(1000)
            app.sendall(ANSWER)
            until = time.perf_counter() + random.random() * random.choice([20e-6, 100e-6])
            app.setblocking(False)
            read[0] = False
            while time.perf_counter() < until and not read[0]:
                try:
                    read[0] = bool(app.recv(1000))
                except BlockingIOError:
                    pass
            app.close()
            done.release()

    threading.Thread(target=serve, daemon=True).start()
    seen = collections.Counter()
    for _ in range(rounds):
        client = socket.create_connection(listener.getsockname())
        client.sendall(REQUEST)
        client.recv(1000)
        until = time.perf_counter() + random.random() * 60e-6
        while time.perf_counter() < until:
            pass
        try:
            client.sendall(REQUEST)
            what = None
        except OSError as refused:
            what = errno.errorcode[refused.errno]
        done.acquire()
        seen[what or error(client, 0.01), "read" if read[0] else "not read"] += 1
        client.close()
    return dict(seen)


if __name__ == "__main__":
    for case in [closed_before, part_read, all_read, ended_then_part_read, in_two_pieces]:
        print(case.__name__, look(case, 100 if case is all_read else 500))
    print("race", race(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
