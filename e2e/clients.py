"""Python's own mail clients, connected to a node; and raw access where they would change a message's bytes."""

import imaplib
import poplib
import re
import smtplib
import ssl
import time

TIMEOUT = 20
imaplib._MAXLINE = 10_000_000  # a SEARCH or FETCH answer about thousands of messages


def tls(node):
    """Trusts the cluster's CA and nothing else."""
    return ssl.create_default_context(cafile=str(node.ca))


def smtp(node, timeout=TIMEOUT):
    return smtplib.SMTP(node.host, node.ports["smtp"], local_hostname="client.example.net", timeout=timeout)


def lmtp(node, timeout=TIMEOUT):
    client = smtplib.LMTP(node.host, node.ports["lmtp"], local_hostname="client.example.net", timeout=timeout)
    client.ehlo()
    return client


def submission(node, user):
    client = smtplib.SMTP(node.certified, node.ports["submission"], local_hostname="client.example.net", timeout=TIMEOUT)
    client.starttls(context=tls(node))
    client.login(user.address, user.password)
    return client


def imap(node, user, timeout=TIMEOUT):
    client = imaplib.IMAP4_SSL(node.certified, node.ports["imaps"], ssl_context=tls(node), timeout=timeout)
    client.login(user.address, user.password)
    return client


def pop3(node, user, timeout=TIMEOUT):
    client = poplib.POP3_SSL(node.certified, node.ports["pop3s"], context=tls(node), timeout=timeout)
    client.user(user.address)
    client.pass_(user.password)
    return client


# SMTP

class Refused(Exception):
    """A final answer: the message is not taken. Its first digit tells temporary (4) from permanent (5)."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code


def send(client, sender, recipients, data):
    """One transaction, by DATA; returns the recipients that were acknowledged. LMTP answers for each of them."""
    options = ["BODY=8BITMIME"] if client.has_extn("8bitmime") else []
    _expect(client.mail(sender, options), 250)
    accepted = [recipient for recipient in recipients if client.rcpt(recipient)[0] == 250]
    if not accepted:
        client.rset()
        raise Refused(550, "no recipient was accepted")
    answer = client.data(data)  # LMTP: the answer for the first recipient
    answers = [answer] + [client.getreply() for _ in accepted[1:] if isinstance(client, smtplib.LMTP)]
    if not isinstance(client, smtplib.LMTP):
        answers *= len(accepted)
    acknowledged = [recipient for recipient, reply in zip(accepted, answers) if reply[0] == 250]
    if not acknowledged:
        raise Refused(*answer)
    return acknowledged


def send_chunked(client, sender, recipient, data):
    """One transaction, by BDAT (RFC 3030): the bytes travel as they are."""
    _expect(client.mail(sender, ["BODY=8BITMIME"]), 250)
    _expect(client.rcpt(recipient), 250)
    half = len(data) // 2
    client.send(f"BDAT {half}\r\n".encode() + data[:half])
    _expect(client.getreply(), 250)
    client.send(f"BDAT {len(data) - half} LAST\r\n".encode() + data[half:])
    _expect(client.getreply(), 250)


def _expect(answer, code):
    if answer[0] != code:
        raise Refused(*answer)


# IMAP

def ok(answer):
    """The data of an answer that must be OK."""
    kind, data = answer
    assert kind == "OK", f"{kind} {data!r:.300}"
    return data


def append(client, folder, data, flags=""):
    """APPEND of exactly these bytes: imaplib's own append() would change line ends. Returns (UIDVALIDITY, UID)."""
    client.literal = data
    answer = ok(client._simple_command("APPEND", folder, f"({flags})"))
    code = client.untagged_responses.get("APPENDUID") or answer
    match = re.search(rb"(?:APPENDUID )?(\d+) (\d+)", code[-1])
    assert match, f"no APPENDUID in {code!r:.300}"
    client.untagged_responses.pop("APPENDUID", None)
    return int(match[1]), int(match[2])


def fetch(client, uids="1:*", what="UID FLAGS BODY.PEEK[]"):
    """{UID: (flags, body)} of the selected folder."""
    found = {}
    for head, body in _literals(ok(client.uid("FETCH", uids, f"({what})"))):
        uid = re.search(rb"\bUID (\d+)", head)
        flags = re.search(rb"\bFLAGS \(([^)]*)\)", head)
        if uid is None:
            continue
        assert int(uid[1]) not in found, f"UID {int(uid[1])} twice in one answer"
        shown = set() if flags is None else {flag.decode() for flag in flags[1].split()} - {"\\Recent"}
        found[int(uid[1])] = (frozenset(shown), body)
    return found


def _literals(data):
    """imaplib's list of tuples and rests as (all text of one message, its literal)."""
    head, body = b"", None
    for part in data:
        if isinstance(part, tuple):
            if body is not None:
                yield head, body
            head, body = part
        elif part is not None and body is not None:
            yield head + part, body
            head, body = b"", None
        elif part is not None:
            yield part, None
    if body is not None:
        yield head, body


def uid_validity(client):
    """Of the folder that was just selected."""
    return int(client.response("UIDVALIDITY")[1][-1])


class Idle:
    """IDLE (RFC 2177): `wait` returns the time at which an unsolicited answer that matches came."""

    def __init__(self, client):
        self._client = client
        self._tag = client._new_tag()
        client.send(self._tag + b" IDLE\r\n")
        line = client.readline()
        assert line.startswith(b"+"), line

    def wait(self, pattern):
        while True:
            line = self._client.readline()
            assert line, "the server closed the connection in IDLE"
            if re.search(pattern, line):
                return time.monotonic()

    def done(self):
        self._client.send(b"DONE\r\n")
        while True:
            line = self._client.readline()
            assert line, "the server closed the connection in IDLE"
            if line.startswith(self._tag):
                assert b" OK" in line, line
                return


# POP3

def retrieve(client, number):
    """RETR with its bytes as sent, but for the stuffed dots (RFC 1939 3): poplib's retr() splits at bare LF too."""
    client._putcmd(f"RETR {number}")
    first = client.file.readline()
    assert first.startswith(b"+OK"), first
    data = bytearray()
    while not data.endswith(b"\r\n.\r\n") and data != b".\r\n":
        line = client.file.readline()
        assert line, "the server closed the connection in RETR"
        data += line
    text = bytes(data[:-3])
    return (text[1:] if text.startswith(b"..") else text).replace(b"\r\n..", b"\r\n.")
