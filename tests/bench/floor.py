"""The least that a Python server can cost here and now: `python tests/bench/floor.py PORT UPSTREAM_PORT`.

A bare epoll loop that answers every read with the bytes that the server on UPSTREAM_PORT gave for the first request.
One recv and one send per request and no parsing. It is the unit for budgets: same machine, same run, same load.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys


def main(port: int, upstream_port: int) -> None:
    """Serves until it is killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    canned = b""
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    peer, _ = listener.accept()
                    peer.setblocking(False)
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    peers[peer.fileno()] = peer
                    poll.register(peer, select.EPOLLIN)
                continue
            try:
                request = peers[fd].recv(65536)
            except OSError:
                request = b""
            if not request:
                poll.unregister(fd)
                peers.pop(fd).close()
                continue
            canned = canned or learned(upstream_port, request)
            peers[fd].send(canned)


def learned(upstream_port: int, request: bytes) -> bytes:
    """The upstream server's answer to one request."""
    with socket.create_connection(("127.0.0.1", upstream_port)) as upstream:
        upstream.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += upstream.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(lengths[0].partition(b":")[2]):
            body += upstream.recv(65536)
        return head + b"\r\n\r\n" + body


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
