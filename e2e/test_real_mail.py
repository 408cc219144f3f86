"""Real and broken messages go in through one node and come back byte for byte from others.

How line ends travel: by SMTP DATA, LMTP and one of the two APPEND runs a message is sent as mail systems hand it on, each
line ended by CRLF (`Message.crlf`). BDAT and the other APPEND run take the file's bytes as they are (`Message.raw`): bare
LF, bare CR, no line end at the end. IMAP must give back exactly what was sent; POP3 too, but for a final CRLF, which its
terminator needs (RFC 1939 3).

SMTP and LMTP put Return-Path and Received in front (RFC 5321 4.4); what follows them must be the message. The envelope
sender, which Return-Path repeats, tells which message it is.

A message with a NUL is outside of what RFC 5321 (4.5.2 leaves it to the server) and IMAP (RFC 9051 9: CHAR8) can carry: a server
may refuse it, for good and at once, but must not change it.
"""

import re

import pytest

import clients
import messages

FRONT = re.compile(rb"Return-Path:[^\r\n]*<(?P<sender>[^>]*)>\r\nReceived:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
WAYS = ["smtp", "bdat", "lmtp", "append", "append-raw"]


def sender(index):
    return f"m{index}@sender.example.net"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", messages.SOURCES)
def test_mail_comes_back_byte_for_byte_from_another_node(cluster, user, report, source, way):
    entry, reader, popper = cluster.nodes
    sent = messages.all_messages()[source]
    expected, refused = deliver(way, entry, user, sent)
    untaken = [name for name in refused if b"\0" not in named(sent, name).raw]
    assert not untaken, f"refused: { {name: refused[name] for name in untaken} }"

    with clients.imap(reader, user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        by_imap = [body for _, body in clients.fetch(imap).values()] if expected else []
    compare("IMAP", way, sent, expected, by_imap)

    pop3 = clients.pop3(popper, user)
    count, _ = pop3.stat()
    by_pop3 = [clients.retrieve(pop3, number) for number in range(1, count + 1)]
    pop3.quit()
    ended = {key: body if body.endswith(b"\r\n") else body + b"\r\n" for key, body in expected.items()}
    compare("POP3", way, sent, ended, by_pop3)
    report(f"{len(expected)} messages intact, {len(refused)} with NUL refused")


def named(sent, name):
    return next(message for message in sent if message.name == name)


def deliver(way, node, user, sent):
    """Sends all; ({key: bytes to come back}, {name: why it was refused})."""
    expected, refused = {}, {}
    client = {"append": clients.imap, "append-raw": clients.imap}.get(way)
    client = client(node, user) if client else clients.lmtp(node) if way == "lmtp" else clients.smtp(node)
    with client:
        if way in ("smtp", "bdat"):
            client.ehlo()
            assert client.has_extn("chunking") and client.has_extn("8bitmime")
        for index, message in enumerate(sent):
            try:
                expected[index] = deliver_one(way, client, user, index, message)
            except clients.Refused as refusal:
                assert refusal.code >= 500, f"{message.name}: {refusal}"
                refused[message.name] = refusal
                client.rset()
            except AssertionError as refusal:  # APPEND answered NO or BAD
                refused[message.name] = refusal
    return expected, refused


def deliver_one(way, client, user, index, message):
    if way == "append":
        clients.append(client, "INBOX", message.crlf)
        return message.crlf
    if way == "append-raw":
        clients.append(client, "INBOX", message.raw)
        return message.raw
    if way == "bdat":
        clients.send_chunked(client, sender(index), user.address, message.raw)
        return message.raw
    clients.send(client, sender(index), [user.address], message.crlf)
    return message.crlf


def compare(protocol, way, sent, expected, found):
    """Each expected message is among the found ones exactly once, and nothing else is."""
    problems = []
    if way.startswith("append"):
        left = list(found)
        for index, body in expected.items():
            if body in left:
                left.remove(body)
            else:
                problems.append(f"{sent[index].name} did not come back as it was")
        problems += [f"unknown message {body[:60]!r}" for body in left]
    else:
        seen = set()
        for body in found:
            front = FRONT.match(body)
            if front is None:
                problems.append(f"no Return-Path and Received in front of {body[:200]!r}")
                continue
            index = int(front["sender"][1:].split(b"@")[0])
            if index in seen:
                problems.append(f"{sent[index].name} came twice")
            seen.add(index)
            if body[front.end():] != expected.get(index):
                problems.append(f"{sent[index].name} differs: {difference(expected.get(index), body[front.end():])}")
        problems += [f"{sent[index].name} is missing" for index in expected.keys() - seen]
    assert not problems, f"{protocol}: {len(problems)} of {len(expected)}: {problems[:10]}"


def difference(wanted, found):
    if wanted is None:
        return "it was refused, yet is there"
    at = next((at for at, pair in enumerate(zip(wanted, found)) if pair[0] != pair[1]), min(len(wanted), len(found)))
    return f"at byte {at} of {len(wanted)}: sent {wanted[at:at + 30]!r}, got {found[at:at + 30]!r}"
