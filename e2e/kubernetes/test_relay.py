"""Mail to others through a relay that wants TLS, a name and a password, signed: what `outbound` of a MailCluster becomes."""

import base64
import contextlib
import secrets
import smtplib
import ssl

import dkim
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

import namespaces
from mail import DOMAIN, IMAGE
from namespaces import run
from wait import eventually

PORT = 5870
LOGIN = ("prickle", secrets.token_urlsafe(16))


class Relay:
    """Takes mail from whoever knows the password, after STARTTLS with a certificate for its name."""

    def __init__(self, directory, name):
        self.name, self.messages = name, []
        self.ca, chain, key = directory / "ca.crt", directory / "relay.crt", directory / "relay.key"
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        run("openssl", "req", "-x509", *new, "-days", "30", "-keyout", directory / "ca.key", "-out", self.ca, "-subj", "/CN=relay CA")
        run("openssl", "req", *new, "-keyout", key, "-out", directory / "relay.csr", "-subj", "/CN=relay")
        (directory / "names").write_text(f"subjectAltName=DNS:{name}\n")
        run("openssl", "x509", "-req", "-in", directory / "relay.csr", "-CA", self.ca, "-CAkey", directory / "ca.key",
            "-CAcreateserial", "-days", "30", "-extfile", directory / "names", "-out", chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        # On the bridge, where pods can reach it, in the test's own process.
        self._controller = Controller(
            self, hostname=namespaces.HOST, port=PORT, tls_context=context, require_starttls=True,
            authenticator=self._authenticate, auth_required=True,
        )

    @staticmethod
    def _authenticate(server, session, envelope, mechanism, data):
        given = (data.login.decode(), data.password.decode())
        # What is not handled here is answered with 535.
        return AuthResult(success=given == LOGIN, handled=given == LOGIN)

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's name
        self.messages.append(envelope.original_content)
        return "250 2.0.0 taken"

    @contextlib.contextmanager
    def running(self):
        self._controller.start()
        try:
            yield self
        finally:
            self._controller.stop()


def signing_key(directory, selector):
    """(PEM, what the DNS would say)."""
    path = directory / f"{selector}.pem"
    run("openssl", "genrsa", "-out", path, "2048")
    public = directory / f"{selector}.der"
    run("openssl", "rsa", "-in", path, "-pubout", "-outform", "der", "-out", public)
    return path.read_text(), b"v=DKIM1; k=rsa; p=" + base64.b64encode(public.read_bytes())


def secret(namespace, name, **data):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data}


def submit(mail, user, subject):
    """As clients do: what is refused for the moment is sent again."""
    eventually(f"{subject} is taken", lambda: attempt(mail, user, subject), 60, every=1)


def attempt(mail, user, subject):
    with smtplib.SMTP(mail.address, 587, local_hostname="client.example.net", timeout=20) as client:
        client.starttls(context=ssl._create_unverified_context())
        client.login(user.address, user.password)
        message = f"From: {user.address}\r\nTo: friend@elsewhere.example\r\nSubject: {subject}\r\n\r\nhello\r\n"
        client.sendmail(user.address, ["friend@elsewhere.example"], message)
    return True


@pytest.fixture
def relay(kubernetes, tmp_path):
    """Outside of the cluster, with a name inside."""
    name, namespace = "relay", "outside"
    kubernetes.apply([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
         "spec": {"ports": [{"name": "smtp", "port": 587, "targetPort": PORT}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"name": "relay-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
         "endpoints": [{"addresses": [namespaces.HOST]}], "ports": [{"name": "smtp", "port": PORT}]},
    ])
    with Relay(tmp_path, f"{name}.{namespace}.svc.cluster.local").running() as made:
        yield made
    kubernetes.kubectl("delete", "namespace", namespace, "--wait=false")


def test_mail_to_others_goes_signed_through_the_relay(kubernetes, mail, relay, tmp_path, report):
    cluster = mail(nodes=3, hostName="mail.example.org")
    keys = {selector: signing_key(tmp_path, selector) for selector in ("s1", "s2")}
    outbound = {
        "relay": {"host": relay.name, "port": 587, "tls": "required", "caSecretName": "relay-ca",
                  "login": {"name": LOGIN[0], "secretName": "relay-login"}},
        "dkim": [{"domain": DOMAIN, "selector": "s1", "secretName": "dkim-s1"}],
    }
    cluster.patch(outbound=outbound)

    def says(*words):
        said = cluster.found()["status"].get("waitingFor") or ""
        assert all(word in said for word in words), said
        return True
    eventually("the operator says which Secret is missing", lambda: says("Secret relay-ca", "ca.crt"), 60, every=0.5)
    kubernetes.apply([
        secret(cluster.namespace, "relay-ca", **{"ca.crt": relay.ca.read_text()}),
        secret(cluster.namespace, "relay-login", password=LOGIN[1]),
        secret(cluster.namespace, "dkim-s1", **{"dkim.pem": "no key"}),
    ])
    eventually("the operator says what is no key", lambda: says("Secret dkim-s1", "private key"), 60, every=0.5)
    kubernetes.apply([secret(cluster.namespace, f"dkim-{name}", **{"dkim.pem": pem}) for name, (pem, _) in keys.items()])
    cluster.wait_settled(nodes=3)

    user = cluster.add_user()

    def arrived(subject, selector):
        submit(cluster, user, subject)
        found = lambda: [message for message in relay.messages if subject.encode() in message]  # noqa: E731
        message = eventually(f"{subject} is at the relay", found, 60, every=0.2)[0]
        record = lambda name, timeout=5: keys[selector][1] if name == f"{selector}._domainkey.{DOMAIN}.".encode() else None  # noqa: E731
        assert dkim.verify(message, dnsfunc=record), message
    arrived("with the first key", "s1")
    # A new key: the nodes are restarted one by one, and sign with it.
    cluster.patch(outbound={"dkim": [{"domain": DOMAIN, "selector": "s2", "secretName": "dkim-s2"}]})
    cluster.wait_settled(nodes=3)
    arrived("with the second key", "s2")
    # A password that is not the relay's any more: what was acknowledged waits in the queue, and goes when it is right again.
    kubernetes.apply(secret(cluster.namespace, "relay-login-2", password="wrong"))
    login = lambda name: {"relay": {"login": {"name": LOGIN[0], "secretName": name}}}  # noqa: E731
    cluster.patch(outbound=login("relay-login-2"))
    cluster.wait_settled(nodes=3)
    submit(cluster, user, "while the password was wrong")

    def deferred():
        code, text = cluster.http("GET", "/v1/queue")
        assert code == 200 and "535" in text, f"{code} {text}"
        return True
    eventually("the queue says why it waits", deferred, 60, every=0.5)
    cluster.patch(outbound=login("relay-login"))
    cluster.wait_settled(nodes=3)
    cluster.kubectl("exec", "mail-0", "--", "mailnode", "queue", "retry", "--all")
    eventually("it is at the relay", lambda: [m for m in relay.messages if b"while the password was wrong" in m], 60, every=0.2)
    assert len(relay.messages) == 3, f"{len(relay.messages)} messages"
    report("3 messages signed and at the relay, one of which waited while its password was wrong")


@pytest.mark.parametrize("outbound, said", [
    ({"relay": {"host": "r", "port": 25, "tls": "required"}}, "caSecretName must be given if, and only if, tls is required"),
    ({"relay": {"host": "r", "port": 25, "login": {"name": "n", "secretName": "s"}}}, "login needs tls: required"),
    ({"connections": 5}, "connectionsPerDestination must be at most outbound.connections"),
    ({"nameServers": ["dns.example.org"]}, "must be IP addresses with ports"),
    ({"dkim": [{"domain": "a.example", "selector": s, "secretName": "k"} for s in ("s1", "s2")]}, "duplicate entries for key"),
    ({"dkim": [{"domain": "a..example", "selector": "s", "secretName": "k"}]}, "outbound.dkim[0].domain"),
], ids=["ca", "login", "connections", "name-servers", "two-keys", "no-domain"])
def test_an_outbound_section_that_cannot_work_is_refused(operator, outbound, said):
    bad = {"apiVersion": "prickle.email/v1alpha1", "kind": "MailCluster", "metadata": {"name": "bad", "namespace": "default"},
           "spec": {"image": IMAGE, "outbound": outbound}}
    with pytest.raises(AssertionError) as refused:
        operator.apply(bad)
    assert said in str(refused.value), refused.value
