"""The control plane, in a namespace of its own: etcd, API server, controllers, scheduler, CoreDNS, and a kube-proxy through
which the test's clients reach Services. Who is who is in a token file; certificates are made with openssl."""

import json
import secrets

import namespaces
from namespaces import CONTROL, PODS, SERVICES, enter, in_group, run
from process import Process
from wait import eventually

NAME = "control"
#: Token holders: name -> (user, groups).
USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "coredns": ("system:coredns", ""),
}
#: kube-proxy's: what it would set is read-only in a namespace.
CONNTRACK = [
    "--conntrack-max-per-core=0", "--conntrack-min=0",
    "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
]
START_SECONDS = 180


def proxy_arguments(kubeconfig, machine):
    return [
        f"--kubeconfig={kubeconfig}", f"--hostname-override={machine}", "--proxy-mode=nftables", f"--cluster-cidr={PODS}",
        "--detect-local-mode=ClusterCIDR", "--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
        *CONNTRACK,
    ]


class ControlPlane:
    def __init__(self, directory, binaries, machines):
        """`machines`: names, whose kubelets get tokens."""
        self.directory = directory / NAME
        self.directory.mkdir()
        self.binaries = binaries
        self.api_server = None
        self._machines = machines
        users = USERS | {name: (f"system:node:{name}", "system:nodes") for name in machines}
        self.tokens = {name: secrets.token_urlsafe(24) for name in users}
        lines = [f'{self.tokens[name]},{user},{user},"{groups}"' for name, (user, groups) in users.items()]
        (self.directory / "tokens.csv").write_text("\n".join(lines) + "\n")
        self._make_certificates()

    def path(self, name):
        return self.directory / name

    def _make_certificates(self):
        def openssl(*arguments):
            run("openssl", *arguments)
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
        openssl("req", "-x509", *key, "-keyout", self.path("ca.key"), "-out", self.path("ca.crt"), "-subj", "/CN=e2e")
        openssl("req", *key[:-2], "-keyout", self.path("api.key"), "-out", self.path("api.csr"), "-subj", "/CN=kubernetes")
        names = f"DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:{CONTROL},IP:{namespaces.API_SERVICE}"
        self.path("api.ext").write_text(f"subjectAltName={names}\n")
        openssl("x509", "-req", "-in", self.path("api.csr"), "-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"),
                "-CAcreateserial", "-days", "30", "-extfile", self.path("api.ext"), "-out", self.path("api.crt"))
        # By which extension servers (metrics) know that it is the API server who asks, and for whom.
        openssl("req", "-x509", *key, "-keyout", self.path("front-ca.key"), "-out", self.path("front-ca.crt"), "-subj", "/CN=front")
        openssl("req", *key[:-2], "-keyout", self.path("front.key"), "-out", self.path("front.csr"), "-subj", "/CN=front-proxy-client")
        openssl("x509", "-req", "-in", self.path("front.csr"), "-CA", self.path("front-ca.crt"), "-CAkey", self.path("front-ca.key"),
                "-CAcreateserial", "-days", "30", "-out", self.path("front.crt"))
        openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", self.path("accounts.key"))
        openssl("ec", "-in", self.path("accounts.key"), "-pubout", "-out", self.path("accounts.pub"))

    def kubeconfig(self, name):
        path = self.path(f"{name}.kubeconfig")
        if path.exists():
            # Others may be reading it: kube-proxy ends if it finds the file empty.
            return path
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {
                "server": f"https://{CONTROL}:6443", "certificate-authority": str(self.path("ca.crt"))}}],
            "users": [{"name": name, "user": {"token": self.tokens[name]}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
        }))
        return path

    def spawn(self, name, *arguments, program=None):
        """A program of `build.sh`, or another one."""
        command = [*in_group(NAME), *enter(NAME), program or self.binaries / name, *arguments]
        return Process(name, command, self.path(f"{name}.log"))

    def start(self):
        namespaces.make_namespace(NAME, CONTROL)
        namespaces.make_group(NAME)
        peers = "http://127.0.0.1:2380"
        self.spawn(
            "etcd", f"--data-dir={self.path('etcd')}", "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379", f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}", "--unsafe-no-fsync",
        )
        self.start_api_server()
        self.spawn(
            "kube-controller-manager", f"--kubeconfig={self.kubeconfig('kube-controller-manager')}", "--leader-elect=false",
            "--use-service-account-credentials", f"--service-account-private-key-file={self.path('accounts.key')}",
            f"--root-ca-file={self.path('ca.crt')}", "--bind-address=127.0.0.1", "--node-monitor-grace-period=16s",
            "--horizontal-pod-autoscaler-sync-period=5s", "--authentication-skip-lookup",
        )
        self.spawn(
            "kube-scheduler", f"--kubeconfig={self.kubeconfig('kube-scheduler')}", "--leader-elect=false",
            "--bind-address=127.0.0.1", "--authentication-skip-lookup",
        )
        self.path("Corefile").write_text(
            f".:53 {{\n  bind {CONTROL}\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {self.kubeconfig('coredns')} e2e\n"
            "    ttl 2\n  }\n}\n")
        self.spawn("coredns", "-conf", self.path("Corefile"))

    def start_proxy(self):
        """Once the machine in whose name it looks at the cluster is known."""
        arguments = proxy_arguments(self.kubeconfig("kube-proxy"), self._machines[0])
        self.spawn("kube-proxy", *arguments, "--masquerade-all")
        namespaces.route(SERVICES, CONTROL)

    def start_api_server(self):
        """Starts it (again) and waits until it is ready; etcd keeps what it knew."""
        self.api_server = self.spawn(
            "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--bind-address={CONTROL}",
            f"--advertise-address={CONTROL}", "--secure-port=6443", f"--tls-cert-file={self.path('api.crt')}",
            f"--tls-private-key-file={self.path('api.key')}", f"--token-auth-file={self.path('tokens.csv')}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.path('accounts.pub')}",
            f"--service-account-signing-key-file={self.path('accounts.key')}",
            f"--service-cluster-ip-range={SERVICES}", "--kubelet-preferred-address-types=InternalIP",
            # Zones of machines become labels of their pods: off before Kubernetes 1.35, where it is the default.
            "--feature-gates=PodTopologyLabelsAdmission=true",
            # Metrics of others, for the HorizontalPodAutoscaler.
            "--enable-aggregator-routing", f"--requestheader-client-ca-file={self.path('front-ca.crt')}",
            "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={self.path('front.crt')}", f"--proxy-client-key-file={self.path('front.key')}",
        )

        def ready():
            assert self.api_server.is_running, f"kube-apiserver ended:\n{self.api_server.tail()}"
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        eventually("the API server is ready", ready, START_SECONDS, every=0.5)

    def stop_api_server(self):
        self.api_server.kill()

    def kubectl(self, *arguments, input=None, check=True, timeout=60):
        config = self.path("admin.kubeconfig")
        if not config.exists():
            self.kubeconfig("admin")
        return run(self.binaries / "kubectl", f"--kubeconfig={config}", *arguments, input=input, check=check, timeout=timeout)
