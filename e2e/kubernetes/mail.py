"""A MailCluster and what its users and administrators do with it: through its Service, its admin API, kubectl."""

import base64
import imaplib
import json
import secrets
import smtplib
import socket
import ssl
import time
from dataclasses import dataclass

import http_client
from wait import eventually

imaplib._MAXLINE = 10_000_000
DOMAIN = "example.org"
IMAGE = "prickle/mailnode:0.1.0"
NEWER = "prickle/mailnode:0.1.1"
#: Ports in a pod (operator/src/children/config.rs).
POD_PORTS = {"smtp": 2525, "imaps": 2993, "http": 8001}
SERVICE_PORTS = {"smtp": 25, "imaps": 993}
READY_SECONDS = 300


@dataclass(frozen=True)
class User:
    address: str
    password: str


class Imap(imaplib.IMAP4_SSL):
    """TLS to an address, under the name that is in the certificate."""

    def __init__(self, address, port, name, context, timeout):
        self._name = name
        super().__init__(address, port, ssl_context=context, timeout=timeout)

    def _create_socket(self, timeout):
        return self.ssl_context.wrap_socket(socket.create_connection((self.host, self.port), timeout), server_hostname=self._name)


class Mail:
    def __init__(self, kubernetes, namespace, name="mail"):
        self.kubernetes, self.namespace, self.name = kubernetes, namespace, name
        self._context = self._token = self._address = None

    def object(self, **spec):
        return {
            "apiVersion": "prickle.email/v1alpha1", "kind": "MailCluster",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"image": IMAGE, "domains": [DOMAIN]} | spec,
        }

    def create(self, **spec):
        """Returns the time it took from `kubectl apply` to Ready."""
        self.kubernetes.kubectl("create", "namespace", self.namespace, check=False)
        begun = time.monotonic()
        self.kubernetes.apply(self.object(**spec))
        self.wait_ready()
        return time.monotonic() - begun

    def kubectl(self, *arguments, **options):
        return self.kubernetes.kubectl("-n", self.namespace, *arguments, **options)

    def patch(self, **spec):
        self.kubectl("patch", "mailcluster", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def get(self, *arguments):
        return self.kubernetes.get("-n", self.namespace, *arguments)

    def found(self):
        return self.get("mailcluster", self.name)

    def condition(self, kind, found=None):
        found = found or self.found()
        conditions = found.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind and c["observedGeneration"] == found["metadata"]["generation"]), None)

    def is_settled(self, nodes=None):
        """All wanted nodes are ready and of the newest template, and nothing is to be done."""
        found = self.found()
        status, wanted = found.get("status", {}), found["spec"]["nodes"]
        assert nodes in (None, wanted)
        ready, progressing = self.condition("Ready", found), self.condition("Progressing", found)
        said = {key: status.get(key) for key in ("nodes", "readyNodes", "updatedNodes", "underReplicatedEntries", "waitingFor")}
        assert ready and ready["status"] == "True", f"{ready} {said}"
        assert progressing and progressing["status"] == "False", f"{progressing} {said}"
        assert status["nodes"] == status["readyNodes"] == status["updatedNodes"] == wanted, said
        assert status["underReplicatedEntries"] == 0, said
        assert "waitingFor" not in status, said
        return True

    def wait_ready(self, seconds=READY_SECONDS):
        def ready():
            found = self.condition("Ready")
            assert found and found["status"] == "True", found
            return True
        eventually(f"{self.namespace}/{self.name} is ready", ready, seconds, every=0.5)

    def wait_settled(self, seconds=READY_SECONDS, nodes=None):
        eventually(f"{self.namespace}/{self.name} is settled", lambda: self.is_settled(nodes), seconds, every=1)

    def pods(self):
        """Pods that run: name -> object."""
        pods = self.get("pods", "-l", f"app.kubernetes.io/instance={self.name}")
        return {pod["metadata"]["name"]: pod for pod in pods}

    def ready_pods(self):
        def ready(pod):
            conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
            return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
        return {name: pod for name, pod in self.pods().items() if ready(pod)}

    def address_of(self, pod):
        return self.get("pod", pod)["status"]["podIP"]

    # What clients need

    @property
    def service_name(self):
        return f"{self.name}.{self.namespace}.svc"

    @property
    def address(self):
        if self._address is None:
            self._address = self.get("service", self.name)["spec"]["clusterIP"]
        return self._address

    @property
    def context(self):
        if self._context is None:
            ca = self.get("configmap", f"{self.name}-ca")["data"]["ca.crt"]
            self._context = ssl.create_default_context(cadata=ca)
        return self._context

    @property
    def token(self):
        if self._token is None:
            self._token = base64.b64decode(self.get("secret", f"{self.name}-admin")["data"]["token"]).decode()
        return self._token

    def imap(self, user, pod_address=None, timeout=20):
        """Through the Service, or at a pod."""
        address = pod_address or self.address
        port = (POD_PORTS if pod_address else SERVICE_PORTS)["imaps"]
        client = Imap(address, port, self.service_name, self.context, timeout)
        client.login(user.address, user.password)
        return client

    def smtp(self, timeout=10):
        return smtplib.SMTP(self.address, SERVICE_PORTS["smtp"], local_hostname="client.example.net", timeout=timeout)

    # Administration

    def http(self, method, path, body=None, pod=None):
        """(status, text) from a pod that is ready, or a certain one."""
        addresses = [self.address_of(pod)] if pod else [p["status"]["podIP"] for p in self.ready_pods().values()]
        failure = AssertionError("no pod is ready")
        for address in addresses:
            url = f"http://{address}:{POD_PORTS['http']}{path}"
            try:
                return http_client.ask(url, method, body, self.token, timeout=20)
            except OSError as error:
                failure = error
        raise failure

    def status(self, pod=None):
        code, text = self.http("GET", "/v1/cluster", pod=pod)
        assert code == 200, f"{code} {text}"
        return json.loads(text)

    def members(self, pod=None):
        return {member["name"]: member["state"] for member in self.status(pod)["members"]}

    def add_user(self):
        user = User(f"u{secrets.token_hex(6)}@{DOMAIN}", secrets.token_urlsafe(16))

        def added():
            code, text = self.http("POST", "/v1/users", {"address": user.address, "password": user.password})
            assert code in (201, 409), f"{code} {text}"
            return True
        eventually(f"{user.address} is added", added, 60, every=0.5)
        return user

    def delete(self):
        """Returns how long it took until the object was gone, and until the pods were."""
        begun = time.monotonic()
        self.kubectl("delete", "mailcluster", self.name, "--ignore-not-found", "--timeout=120s", timeout=150)
        gone = time.monotonic() - begun
        eventually("all pods are gone", lambda: not self.pods(), 150, every=0.5)
        return gone, time.monotonic() - begun

    def leave(self):
        """Nobody needs it any more. Nobody waits either: three nodes that say farewell to nobody cost the next test nothing."""
        self.kubectl("delete", "mailcluster", self.name, "--ignore-not-found", "--wait=false")
        self.kubernetes.kubectl("delete", "namespace", self.namespace, "--wait=false")
