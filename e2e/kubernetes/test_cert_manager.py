"""A certificate from cert-manager: its own controllers and CustomResourceDefinitions, an issuer with a CA in this cluster."""

import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from kubernetes_cluster import HERE
from mail import SERVICE_PORTS, Mail
from namespaces import run
from wait import eventually

NAMESPACE = "certified-0"
NAME = "mail.example.org"


@pytest.fixture
def cert_manager(kubernetes):
    built = subprocess.run([HERE / "build-cert-manager.sh"], stdout=subprocess.PIPE, text=True, check=True, timeout=3600)
    directory = Path(built.stdout.strip().splitlines()[-1])
    kubernetes.kubectl("apply", "--server-side", "-f", directory / "crds", timeout=120)
    for crd in ("certificates", "issuers"):
        kubernetes.kubectl("wait", "--for=condition=Established", f"crd/{crd}.cert-manager.io", "--timeout=60s", timeout=70)
    process = kubernetes.control.spawn("cert-manager", kubernetes.control.kubeconfig("admin"), program=directory / "cert-manager")
    eventually("cert-manager runs", lambda: "controllers run" in process.tail(), 60, every=0.2)
    yield process
    process.end()
    kubernetes.kubectl("delete", "-f", directory / "crds", "--timeout=60s", timeout=70)


def issuers(namespace, issuer):
    """A CA that signs itself, and an Issuer that signs with it, called `issuer`."""
    def made(kind, name, spec):
        return {"apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    return [
        made("Issuer", "self-signed", {"selfSigned": {}}),
        made("Certificate", f"{issuer}-ca", {
            "isCA": True, "commonName": f"{issuer} CA", "secretName": f"{issuer}-ca", "privateKey": {"algorithm": "ECDSA", "size": 256},
            "issuerRef": {"name": "self-signed"}}),
        made("Issuer", issuer, {"ca": {"secretName": f"{issuer}-ca"}}),
    ]


def test_a_certificate_comes_from_cert_manager_and_is_renewed(operator, cert_manager, tmp_path, report):
    kubernetes, mail = operator, Mail(operator, NAMESPACE)
    kubernetes.kubectl("create", "namespace", NAMESPACE)
    spec = {"nodes": 3, "hostName": NAME, "tls": {"selfSigned": None, "certManager": {"issuerRef": {"name": "office"}}}}
    try:
        kubernetes.apply(mail.object(**spec))
        # The Certificate is asked for (within a minute, if the operator has seen before that there is no such kind), and the status says
        # what is waited for; there is no such issuer yet.
        eventually("the Certificate is asked for", lambda: mail.get("certificate", "mail-mail-tls"), 90, every=0.5)

        def waits():
            said = mail.found()["status"].get("waitingFor") or ""
            assert "mail-mail-tls" in said and "cert-manager" in said, said
            return True
        eventually("the operator says that it waits for it", waits, 60, every=0.5)
        begun = time.monotonic()
        kubernetes.apply(issuers(NAMESPACE, "office"))
        mail.wait_ready()
        report(f"{time.monotonic() - begun:.1f} s from the issuer to Ready")
        mail.wait_settled(nodes=3)
        ca = tmp_path / "ca.crt"
        run("sh", "-c", f"echo {mail.get('secret', 'office-ca')['data']['tls.crt']} | base64 -d >{ca}")

        def serial():
            context = ssl.create_default_context(cafile=ca)
            with socket.create_connection((mail.address, SERVICE_PORTS["imaps"]), 10) as plain, \
                    context.wrap_socket(plain, server_hostname=NAME) as secure:
                return secure.getpeercert()["serialNumber"]
        first = serial()
        # cert-manager issues again when the Secret is away, or the time has come.
        mail.kubectl("delete", "secret", "mail-mail-tls")
        eventually("it is issued again", lambda: mail.get("secret", "mail-mail-tls")["data"]["tls.crt"], 60, every=0.5)
        # Secrets are looked at every five minutes, and when the MailCluster changes.
        mail.kubectl("annotate", "mailcluster", "mail", "example.org/look=now")
        eventually("all nodes have the new one", lambda: all(serial() != first for _ in range(9)), 180, every=1)
        mail.wait_settled(nodes=3)
        report("a certificate that was issued again is served by all nodes")
    finally:
        mail.leave()
