"""A small real DNS server (the package dnslib), over UDP and TCP, whose zones a test writes while it runs."""

from dnslib import QTYPE, RCODE, RR, A, MX, TXT
from dnslib.server import BaseResolver, DNSLogger, DNSServer

_SECONDS = 1  # so that a test that changes a record does not wait for caches


class Zones(BaseResolver):
    """{(name, kind): [data]}. A name that has no record of any kind does not exist."""

    def __init__(self):
        self.records = {}
        self.broken = set()

    def set(self, name, kind, *data):
        """`set("example.net", "MX", (10, "mx1.example.net"))`, `set("mx1.example.net", "A", "198.18.0.5")`."""
        self.records[name.lower(), kind] = list(data)

    def resolve(self, request, handler):
        reply = request.reply()
        name = str(request.q.qname).rstrip(".").lower()
        kind = QTYPE[request.q.qtype]
        if name in self.broken:
            reply.header.rcode = RCODE.SERVFAIL
        elif not any(known == name for known, _ in self.records):
            reply.header.rcode = RCODE.NXDOMAIN
        for data in self.records.get((name, kind), []):
            reply.add_answer(RR(request.q.qname, request.q.qtype, rdata=_data(kind, data), ttl=_SECONDS))
        return reply


def _data(kind, data):
    if kind == "MX":
        return MX(data[1], data[0])
    return {"A": A, "TXT": TXT}[kind](data)


class Dns:
    def __init__(self, address, port):
        self.zones = Zones()
        self.where = f"{address}:{port}"
        quiet = DNSLogger("-request,-reply,-truncated,-error", False)
        self._servers = [DNSServer(self.zones, address=address, port=port, tcp=tcp, logger=quiet) for tcp in (False, True)]

    def start(self):
        for server in self._servers:
            server.start_thread()
        return self

    def stop(self):
        for server in self._servers:
            server.stop()
            server.server.server_close()
