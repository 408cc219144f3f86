"""Mail to other servers: three nodes, a real DNS server and Debian's Postfix, each in a network namespace, because the
names and port 25 are part of it.

`PRICKLE_OUTBOUND_MESSAGES=10000` makes the last test as long as it should be once in a while.
"""

import email
import email.policy
import json
import os
import re
import smtplib
import subprocess
import threading
import time
from collections import Counter

import dkim
import pytest

import clients
import cluster as clusters
from chaos import network
from dns_server import Dns
from ports import free_block
from postfix import Postfix
from wait import eventually

NODES = 3
QUEUED = int(os.environ.get("PRICKLE_OUTBOUND_MESSAGES", "300"))
#: The default schedule begins with 5 minutes and is for hours and days. This one is 300 times as fast.
FASTER = 300
#: Nothing may expire while the last test's messages wait.
EXPIRY = 25 if QUEUED <= 1_000 else 7_200
WARNING = 20 if QUEUED <= 1_000 else 0
SETTINGS = """outbound:
  nameServers: ['{dns}']
  retrySeconds: [1, 2, 3, 6]
  warnSeconds: {warning}
  expireSeconds: {expiry}
  dkim: [{{ domain: example.org, selector: s1, keyFile: ./dkim.pem }}]
"""


class World:
    """The cluster and what is around it."""

    def __init__(self, directory, net):
        self.directory = directory
        self.net = net
        self.dns = Dns(net.gateway, free_block(1)).start()
        settings = SETTINGS.format(dns=self.dns.where, warning=WARNING, expiry=EXPIRY)
        self.cluster = clusters.Cluster(directory / "cluster", NODES, network=net, settings=settings)
        self.key = directory / "cluster/dkim.pem"
        subprocess.run(["openssl", "genrsa", "-out", self.key, "2048"], check=True, capture_output=True, timeout=60)
        self.servers = []

    def server(self, name, domains, index):
        server = Postfix(name, domains, self.net, NODES + index)
        self.dns.zones.set(name, "A", server.address)
        self.servers.append(server)
        return server

    def certificate(self, name):
        """Key and certificate in one, as Postfix wants them, of an authority that nobody outside knows."""
        directory = self.directory / "cluster"
        self.cluster._run("pki", "node", "--ca", directory, "--name", name.partition(".")[0], "--out", directory, "--san", name)
        return "".join((directory / f"{name.partition('.')[0]}.{part}").read_text() for part in ("key", "pem"))

    def close(self):
        self.cluster.close()
        for server in self.servers:
            server.remove()
        self.dns.stop()


@pytest.fixture(scope="module")
def net():
    try:
        made = network.Network(NODES + 2).start()
    except network.Unavailable as error:
        pytest.skip(f"no network namespaces on this machine: {error}")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def world(tmp_path_factory, net):
    made = World(tmp_path_factory.mktemp("outbound"), net)
    zones = made.dns.zones
    try:
        made.cluster.start()
        made.cluster.add_domain()
        domains = ["example.net", "backup.example.net", "plain.example.net"]
        made.mx = made.server("mx1.example.net", domains, 0)
        made.mx.use_tls(made.certificate("mx1.example.net"))
        made.mx.start()
        zones.set("example.net", "MX", (10, "mx1.example.net"))
        # The nodes' own addresses: nothing listens on port 25 there. Nobody has the last one.
        zones.set("dead.example.net", "A", net.addresses[0])
        zones.set("gone.example.net", "A", net.gateway.rsplit(".", 1)[0] + ".200")
        # Given up at the end of its time, which the other tests need not wait for.
        zones.set("never.example.net", "MX", (10, "dead.example.net"))
        made.impatient = made.cluster.add_user("impatient")
        made.submitted = time.monotonic()
        submit(made.cluster.nodes[0], made.impatient, ["inbox@never.example.net"], message("never"))
        yield made
    finally:
        made.close()


@pytest.fixture
def user(world):
    return world.cluster.add_user()


def message(subject, body="hello\r\n.dot\r\n..dots\r\n\r\n.\r\nend\r\n"):
    head = f"From: a@example.org\r\nSubject: {subject}\r\nDate: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <{subject}@a>\r\n"
    return f"{head}\r\n{body}".encode()


def submit(node, user, recipients, data):
    with clients.submission(node, user) as client:
        return clients.send(client, user.address, recipients, data)


#: What we put before a message.
_OURS = re.compile(rb"\A(?:DKIM-Signature: .*?\r\n(?=[^\t]))?Received: from .*?;\r\n\t[^\r]*\r\n", re.DOTALL)


def arrived(server, subject):
    """Messages of this subject as their senders wrote them."""
    found = [data for data in server.messages() if f"\r\nSubject: {subject}\r\n".encode() in data]
    return [_OURS.sub(b"", data) for data in found]


def inbox(world, user):
    with clients.imap(world.cluster.running()[-1], user) as imap:
        clients.ok(imap.select("INBOX", readonly=True))
        return [body for _, body in clients.fetch(imap).values()]


def queued(world, sender=None):
    page = json.loads(world.cluster.running()[-1].http("GET", "/v1/queue?limit=1000")[1])
    assert page["missing"] == [], page
    return [found for found in page["messages"] if sender is None or found["sender"] == sender.address]


def is_gone(world, user):
    """Nothing of this user is queued any more."""
    return queued(world, user) == []


def report_of(world, user, seconds=20, action="failed"):
    """The only report of this kind in this user's INBOX, as {field: value} of each of its recipients."""
    of_kind = f"\r\nAction: {action}\r\n".encode()
    found = lambda: [body for body in inbox(world, user) if b"report-type=" in body and of_kind in body]  # noqa: E731
    body = eventually("the sender is told", found, seconds)
    assert len(body) == 1, body
    assert body[0].startswith(b"Return-Path: <>\r\n"), body[0]
    parsed = email.message_from_bytes(body[0], policy=email.policy.default)
    assert parsed.get_content_type() == "multipart/report" and parsed.get_param("report-type") == "delivery-status"
    text, status, headers = parsed.iter_parts()
    assert status.get_content_type() == "message/delivery-status"
    assert headers.get_content_type() == "text/rfc822-headers" and "Subject: " in headers.get_content()
    message_fields, *recipients = status.get_payload()
    assert message_fields["Reporting-MTA"].startswith("dns;"), message_fields
    return {fields["Final-Recipient"].partition(";")[2].strip(): fields for fields in recipients}


def test_a_message_arrives_once_and_byte_for_byte(world, user):
    data = message("plain")
    assert submit(world.cluster.nodes[0], user, ["inbox@example.net"], data) == ["inbox@example.net"]
    eventually("it arrives", lambda: arrived(world.mx, "plain"), 20)
    eventually("the queue is empty", lambda: is_gone(world, user), 20)
    assert arrived(world.mx, "plain") == [data]


def test_tls_is_used_where_it_is_offered_whoever_the_certificate_is_from(world, user):
    submit(world.cluster.nodes[0], user, ["inbox@example.net"], message("secret"))
    eventually("it arrives", lambda: arrived(world.mx, "secret"), 20)
    raw = next(path.read_bytes() for path in world.mx.files() if b"Subject: secret\n" in path.read_bytes())
    assert b"(using TLSv1.3 " in raw, raw


def test_a_signature_is_one_that_others_believe(world, user):
    submit(world.cluster.nodes[1], user, ["inbox@example.net"], message("signed"))
    eventually("it arrives", lambda: arrived(world.mx, "signed"), 20)
    data = next(data for data in world.mx.messages() if b"Subject: signed\r\n" in data)
    public = subprocess.run(["openssl", "rsa", "-in", world.key, "-pubout"], check=True, capture_output=True, timeout=20)
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.stdout.splitlines()[1:-1])
    asked = []

    def txt(name, timeout=5):
        asked.append(name)
        return record
    assert dkim.verify(data, dnsfunc=txt), data
    assert asked == [b"s1._domainkey.example.org."]
    assert not dkim.verify(data.replace(b"Subject: signed", b"Subject: forged"), dnsfunc=txt)
    assert not dkim.verify(data.replace(b"hello", b"hullo"), dnsfunc=txt)


def test_every_host_and_address_is_tried_in_order(world, user):
    zones = world.dns.zones
    zones.set("backup.example.net", "MX", (30, "mx1.example.net"), (10, "dead.example.net"), (20, "two.example.net"))
    zones.set("two.example.net", "A", world.net.addresses[1], world.net.addresses[2])
    submit(world.cluster.nodes[0], user, ["inbox@backup.example.net"], message("backup"))
    eventually("it arrives", lambda: arrived(world.mx, "backup"), 20)


def test_a_domain_without_mx_is_its_own_host(world, user):
    world.dns.zones.set("plain.example.net", "A", world.mx.address)
    submit(world.cluster.nodes[0], user, ["inbox@plain.example.net"], message("implicit"))
    eventually("it arrives", lambda: arrived(world.mx, "implicit"), 20)


def test_the_sender_is_told_of_recipients_that_are_refused_and_the_others_get_it(world, user):
    other = world.cluster.add_user()
    recipients = ["inbox@example.net", "nobody@example.net", other.address, "inbox2@example.net"]
    data = message("mixed")
    assert submit(world.cluster.nodes[2], user, recipients, data) == recipients
    report = report_of(world, user)
    assert list(report) == ["nobody@example.net"]
    assert (report["nobody@example.net"]["Action"], report["nobody@example.net"]["Status"]) == ("failed", "5.1.1")
    assert report["nobody@example.net"]["Remote-MTA"] == "dns; mx1.example.net"
    assert "User unknown" in report["nobody@example.net"]["Diagnostic-Code"]
    assert [body.endswith(data) for body in inbox(world, other)] == [True]
    eventually("the queue is empty", lambda: is_gone(world, user), 20)
    assert arrived(world.mx, "mixed") == [data] * 2  # Postfix writes one for each of its recipients


def test_domains_that_take_no_mail_or_do_not_exist_are_reported_at_once(world, user):
    world.dns.zones.set("null.example.net", "MX", (0, "."))
    submit(world.cluster.nodes[0], user, ["inbox@null.example.net"], message("null"))
    assert report_of(world, user)["inbox@null.example.net"]["Status"] == "5.1.10"
    other = world.cluster.add_user()
    submit(world.cluster.nodes[0], other, ["inbox@nxdomain.example.net"], message("nxdomain"))
    assert report_of(world, other)["inbox@nxdomain.example.net"]["Status"] == "5.1.2"


def test_a_domain_whose_mx_we_are_is_a_loop(world, user):
    world.dns.zones.set("loop.example.net", "MX", (10, "node-2"))
    submit(world.cluster.nodes[0], user, ["inbox@loop.example.net"], message("loop"))
    assert report_of(world, user)["inbox@loop.example.net"]["Status"] == "5.4.6"


def test_a_dns_that_fails_is_waited_for(world, user):
    world.dns.zones.broken.add("flaky.example.net")
    world.dns.zones.set("flaky.example.net", "MX", (10, "mx1.example.net"))
    submit(world.cluster.nodes[0], user, ["inbox@flaky.example.net"], message("flaky"))

    def waits():
        [found] = queued(world, user)
        return "DNS" in (found["recipients"][0]["problem"] or "")
    eventually("it waits and says for what", waits, 30)
    world.dns.zones.broken.clear()
    # mx1 does not know the domain, so the end of it is a report: the message went there.
    assert "inbox@flaky.example.net" in report_of(world, user)


def test_nobody_relays_without_logging_in(world, user):
    node = world.cluster.nodes[0]
    for connect in (clients.smtp, clients.lmtp):
        with connect(node) as client:
            if connect is clients.smtp:
                client.ehlo()
            for sender in ("a@example.com", user.address, ""):
                assert client.mail(sender)[0] == 250
                assert client.rcpt("inbox@example.net") == (550, b"5.7.1 Relaying denied"), sender
                client.rset()
    with smtplib.SMTP(node.certified, node.ports["submission"], timeout=20) as client:
        client.starttls(context=clients.tls(node))
        client.ehlo()
        assert client.mail(user.address)[0] == 530


def test_a_user_sends_as_nobody_else(world, user):
    other = world.cluster.add_user()
    node = world.cluster.nodes[0]
    world.cluster.admin("alias", "add", "team@example.org", user.address)
    with clients.submission(node, user) as client:
        for sender in (other.address, "a@example.net", "nobody@example.org"):
            code, text = client.mail(sender)
            assert (code, text) == (550, b"5.7.1 This sender address is not one of yours"), sender
        for sender in (user.address, user.address.replace("@", "+detail@"), "team@example.org", ""):
            assert client.mail(sender)[0] == 250, sender
            client.rset()
        # No address literals: they lead into private networks.
        assert client.mail(user.address)[0] == 250
        assert client.rcpt(f"inbox@[{world.mx.address}]")[0] == 553


def test_all_mail_goes_through_a_relay_if_there_is_one(world, user, tmp_path):
    """One cluster is the other's relay: TLS with its name and authority, and a log-in."""
    relay = world.cluster.nodes[1]
    (tmp_path / "relay.password").write_text(user.password + "\n")
    (tmp_path / "relay.password").chmod(0o600)
    address = f"host: {relay.host}, port: {relay.ports['submission']}"
    login = f"login: {{ name: {user.address}, passwordFile: {tmp_path}/relay.password }}"
    secure = f"outbound: {{ relay: {{ {address}, tls: required, ca: {relay.ca}, {login} }}, retrySeconds: [1] }}\n"
    with clusters.started(tmp_path / "small", count=1, settings=secure) as small:
        status, text = small.nodes[0].http("POST", "/v1/users", {"address": user.address, "password": user.password})
        assert status == 201, text
        submit(small.nodes[0], user, ["inbox@example.net"], message("relayed"))
        eventually("it arrives", lambda: arrived(world.mx, "relayed"), 20)
        data = next(data for data in world.mx.messages() if b"Subject: relayed\r\n" in data)
        assert data.count(b"\r\nReceived: from ") + data.startswith(b"Received: from ") == 2, data
        assert b"with ESMTPSA" in data, data
        # What the relay finds out it reports to the sender's mailbox there.
        world.dns.zones.set("null.example.net", "MX", (0, "."))
        submit(small.nodes[0], user, ["inbox@null.example.net"], message("refused"))
        assert report_of(world, user)["inbox@null.example.net"]["Status"] == "5.1.10"


def test_a_relay_whose_certificate_is_anothers_gets_nothing(world, user, tmp_path):
    relay = world.cluster.nodes[1]
    (tmp_path / "relay.password").write_text(user.password)
    subprocess.run([clusters.MAILNODE, "pki", "ca", "--out", tmp_path / "other"], check=True, capture_output=True, timeout=60)
    address = f"host: {relay.host}, port: {relay.ports['submission']}"
    login = f"login: {{ name: {user.address}, passwordFile: {tmp_path}/relay.password }}"
    wrong = f"outbound: {{ relay: {{ {address}, tls: required, ca: {tmp_path}/other/ca.pem, {login} }}, retrySeconds: [1] }}\n"
    with clusters.started(tmp_path / "small", count=1, settings=wrong) as small:
        small.nodes[0].http("POST", "/v1/users", {"address": user.address, "password": user.password})
        submit(small.nodes[0], user, ["inbox@example.net"], message("trusting"))

        def waits():
            [found] = json.loads(small.nodes[0].http("GET", "/v1/queue")[1])["messages"]
            return "TLS could not be agreed on" in (found["recipients"][0]["problem"] or "")
        eventually("it waits and says why", waits, 20)
    assert arrived(world.mx, "trusting") == []


def test_what_waits_can_be_listed_shown_tried_and_dropped_through_any_node(world, user):
    world.dns.zones.set("waits.example.net", "MX", (10, "dead.example.net"))
    recipients = [f"inbox{number}@waits.example.net" for number in range(8)]
    for subject in ("waits-1", "waits-2"):
        submit(world.cluster.nodes[0], user, recipients, message(subject))
    first, second, third = world.cluster.nodes

    def waiting():
        found = queued(world, user)
        return found if len(found) == 2 and all(one["recipients"][0]["problem"] for one in found) else None
    one, other = eventually("both wait", waiting, 20)
    assert (one["waiting"], len(one["recipients"])) == (8, 5)
    listed = world.cluster.admin("queue", "list", node=second)
    assert one["id"] in listed and "inbox0@waits.example.net" in listed and "refused" in listed, listed
    shown = json.loads(world.cluster.admin("queue", "show", one["id"], "--json", node=third))
    assert [recipient["address"] for recipient in shown["recipients"]] == recipients
    assert shown["holder"] in {node.name for node in world.cluster.nodes}
    for node, message_id in ((first, one["id"]), (second, other["id"])):
        world.cluster.admin("queue", "retry", message_id, node=node)
    assert "messages to be tried now:" in world.cluster.admin("queue", "retry", "--all", node=third)
    world.cluster.admin("queue", "drop", one["id"], node=third)
    world.cluster.admin("queue", "drop", other["id"], node=first)
    eventually("both are gone", lambda: is_gone(world, user), 10)
    assert inbox(world, user) == []
    done = world.cluster.admin("queue", "show", one["id"], check=False)
    assert done.returncode == 1 and "not found" in done.stderr, done
    done = world.cluster.admin("queue", "drop", "nonsense", check=False)
    assert done.returncode == 1 and "hexadecimal" in done.stderr, done


def test_what_a_destination_missed_in_an_hour_arrives_when_it_is_back_though_all_nodes_were_killed(world, user, report):
    late = world.server("mx2.example.net", ["late.example.net"], 1)
    # It offers a TLS that is too old for us: clear text is no worse than that.
    late.use_tls(world.certificate("mx2.example.net"), protocols="TLSv1")
    world.dns.zones.set("late.example.net", "MX", (10, "mx2.example.net"))
    subjects = {f"late-{number}" for number in range(20)}
    for number, subject in enumerate(sorted(subjects)):
        submit(world.cluster.nodes[number % NODES], user, ["inbox@late.example.net"], message(subject))
    begun = time.monotonic()
    # Nothing that is only in memory is needed.
    for node in world.cluster.nodes:
        world.cluster.kill(node)
    world.cluster.start()
    time.sleep(max(0.0, begun + 3_600 / FASTER - time.monotonic()))
    assert len(queued(world, user)) == 20 and inbox(world, user) == []
    late.start()
    begun = time.monotonic()
    eventually("the queue is empty", lambda: is_gone(world, user), 30)
    report(f"the last of 20 messages arrived {time.monotonic() - begun:.1f} s after the destination was back")
    for subject in subjects:
        assert arrived(late, subject) == [message(subject)], subject
    assert "SSL_accept error" in late.log() and b"using TLS" not in b"".join(path.read_bytes() for path in late.files())


@pytest.mark.skipif(EXPIRY > 60, reason="the last test's messages need longer")
def test_a_delay_is_reported_once_and_so_is_what_was_tried_for_too_long(world):
    fields = report_of(world, world.impatient, WARNING + 30, action="delayed")["inbox@never.example.net"]
    assert fields["Status"].startswith("4.") and "connection" in fields["Diagnostic-Code"] and fields["Will-Retry-Until"], fields
    fields = report_of(world, world.impatient, EXPIRY + 30)["inbox@never.example.net"]
    assert (fields["Action"], fields["Status"]) == ("failed", "4.4.7")
    assert "connection" in fields["Diagnostic-Code"]
    assert time.monotonic() - world.submitted > EXPIRY - 2
    eventually("it is gone", lambda: is_gone(world, world.impatient), 10)


@pytest.mark.kill
def test_all_that_is_queued_arrives_though_a_holder_is_killed(world, user, report):
    many = world.server("mx3.example.net", ["many.example.net"], 1)
    world.dns.zones.set("many.example.net", "MX", (10, "mx3.example.net"))
    for server in world.servers:
        if server is not world.mx and server is not many:
            server.stop()
    begun = time.monotonic()
    subjects = submit_many(world, user, QUEUED)
    submitting = time.monotonic() - begun
    holder = world.cluster.nodes[2]
    many.start()
    world.cluster.admin("queue", "retry", "--all")
    eventually("some have arrived", lambda: len(many.files()) > QUEUED / 10, 120)
    at = len(many.files())
    world.cluster.kill(holder)
    begun = time.monotonic()
    patience = 60 + QUEUED / 20
    eventually("all have arrived", lambda: len(many.files()) >= QUEUED and found(many) >= subjects, patience, every=1)
    eventually("all have left the queue", lambda: is_gone(world, user), patience, every=1)
    took = time.monotonic() - begun
    world.cluster.start_node(holder)
    counts = Counter(subject_of(data) for data in many.messages())
    assert set(counts) == subjects
    twice = sum(counts.values()) - len(counts)
    report(
        f"{QUEUED} messages queued in {submitting:.1f} s; holder killed when {at} had arrived; all there {took:.1f} s later, "
        f"{twice} of them twice"
    )
    # Only what was under way can come again: a message for each of the holder's connections.
    assert twice <= 10, counts.most_common(20)


def submit_many(world, user, count):
    """Through all nodes at once; returns what was acknowledged."""
    subjects = [f"many-{number}" for number in range(count)]
    lock, acknowledged, errors = threading.Lock(), set(), []

    def work(node, mine):
        try:
            with clients.submission(node, user) as client:
                for subject in mine:
                    clients.send(client, user.address, ["inbox@many.example.net"], message(subject))
                    with lock:
                        acknowledged.add(subject)
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)
    workers = 12
    threads = [
        threading.Thread(target=work, args=(world.cluster.nodes[number % NODES], subjects[number::workers])) for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60 + count / 10)
    assert not errors, errors
    assert acknowledged == set(subjects)
    return acknowledged


def found(server):
    return {subject_of(data) for data in server.messages()}


def subject_of(data):
    return re.search(rb"\r\nSubject: ([^\r]*)\r\n", data)[1].decode()
