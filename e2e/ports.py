"""Ports for servers under test.

They lie below Linux's ephemeral range (32768 and up), so that no outgoing connection takes the port of a node while
that node is dead and about to return.
"""

import os
import socket

_FIRST, _LAST = 15_000, 32_000
# Processes that share the tests of one run (pytest-xdist) have a part of the range each.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_share = (_LAST - _FIRST) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_FIRST, _LAST = _FIRST + _worker * _share, _FIRST + (_worker + 1) * _share
_next = _FIRST + (os.getpid() * 97) % (_LAST - _FIRST)


def _is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_block(length):
    """First of `length` consecutive free ports. Never gives out a port twice."""
    global _next
    for _ in range(200):
        first, _next = _next, _next + length
        if _next > _LAST:
            _next = _FIRST
            continue
        if all(_is_free(port) for port in range(first, first + length)):
            return first
    raise RuntimeError(f"no {length} consecutive free ports on loopback")
