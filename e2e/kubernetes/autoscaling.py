"""What scales by load in a real cluster: KEDA as its own manifests install it, metrics-server, a Prometheus that finds
and scrapes the pods, and an adapter that makes custom metrics of what it knows."""

import json
import os
import subprocess
import tempfile
import urllib.parse
from pathlib import Path

import http_client
import images
import namespaces
from namespaces import CONTROL
from wait import eventually

HERE = Path(__file__).resolve().parent
KEDA_IMAGES = {"ghcr.io/kedacore/keda": "keda", "ghcr.io/kedacore/keda-metrics-apiserver": "keda-adapter"}
TAG = "e2e"
PROMETHEUS = f"http://{CONTROL}:9090"
METRICS_SERVER_PORT = 4443
ADAPTER_PORT = 6444


def build(*more):
    """Directory of the programs and of KEDA's manifests."""
    # Yields to tests that run meanwhile: the first time it takes minutes.
    done = subprocess.run(["nice", "-n", "19", HERE / "build-autoscaling.sh", *more], stdout=subprocess.PIPE, text=True, check=True, timeout=3600)
    return Path(done.stdout.strip().splitlines()[-1])


def install_keda(kubernetes, programs):
    """Its own manifests, but for the names of the images, how long probes wait, and its webhooks (they check what people
    write; a ScaledObject is written by our operator here)."""
    directory = Path(tempfile.mkdtemp(prefix="keda-", dir=kubernetes.directory))
    for image, program in KEDA_IMAGES.items():
        config = {"Entrypoint": [f"/{program}"], "User": "1000:1000"}
        kubernetes.load(images.archive(directory / f"{program}.tar", [f"{image}:{TAG}"], programs / program, f"/{program}", config))
    # Pulled never: there is no registry here.
    deployment = [
        {"op": "replace", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "Never"},
        {"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe/initialDelaySeconds", "value": 1},
    ]
    without = [
        {"$patch": "delete", "apiVersion": "apps/v1", "kind": "Deployment",
         "metadata": {"name": "keda-admission", "namespace": "keda"}},
        {"$patch": "delete", "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
         "metadata": {"name": "keda-admission"}},
    ]
    (directory / "kustomization.yaml").write_text(json.dumps({
        "resources": [os.path.relpath(programs / "manifests/default", directory)],
        "images": [{"name": image, "newTag": TAG} for image in KEDA_IMAGES],
        "patches": [
            *({"target": {"kind": "Deployment", "name": name}, "patch": json.dumps(deployment)}
              for name in ("keda-operator", "keda-metrics-apiserver")),
            *({"patch": json.dumps(patch)} for patch in without),
        ],
    }))
    kubernetes.kubectl("apply", "--server-side", "-k", directory, timeout=120)
    for name in ("keda-operator", "keda-metrics-apiserver"):
        kubernetes.kubectl("-n", "keda", "rollout", "status", f"deployment/{name}", "--timeout=180s", timeout=200)
    served(kubernetes, "v1beta1.external.metrics.k8s.io")


def served(kubernetes, service):
    """Waits until the API server reaches an extension."""
    def available():
        conditions = kubernetes.get("apiservice", service).get("status", {}).get("conditions", [])
        assert any(c["type"] == "Available" and c["status"] == "True" for c in conditions), conditions
        return True
    eventually(f"{service} is available", available, 120, every=1)


def start_metrics_server(kubernetes):
    """CPU and memory of pods from the kubelets, for the HorizontalPodAutoscaler. It runs beside the control plane."""
    control, program = kubernetes.control, "metrics-server"
    config = control.kubeconfig("admin")
    control.spawn(
        program, f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
        f"--secure-port={METRICS_SERVER_PORT}", f"--cert-dir={control.path('metrics-server')}", "--kubelet-insecure-tls",
        "--kubelet-preferred-address-types=InternalIP", "--metric-resolution=10s", "--kubelet-request-timeout=5s",
        program=build(program) / program,
    )
    extend(kubernetes, program, METRICS_SERVER_PORT, "metrics.k8s.io", "v1beta1")


def start_prometheus_adapter(kubernetes, rules):
    """The custom metrics API from Prometheus, by rules of its configuration. It runs beside the control plane."""
    control, program = kubernetes.control, "prometheus-adapter"
    config = control.kubeconfig("admin")
    control.path("adapter.yaml").write_text(json.dumps({"rules": rules}))
    control.spawn(
        program, f"--lister-kubeconfig={config}", f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}", f"--secure-port={ADAPTER_PORT}", f"--cert-dir={control.path('prometheus-adapter')}",
        f"--prometheus-url={PROMETHEUS}", f"--config={control.path('adapter.yaml')}", "--metrics-relist-interval=10s",
        "--metrics-max-age=60s", program=build(program) / program,
    )
    extend(kubernetes, program, ADAPTER_PORT, "custom.metrics.k8s.io", "v1beta2")


def extend(kubernetes, name, port, group, version):
    """A program beside the control plane serves an API of Kubernetes."""
    service = f"{version}.{group}"
    kubernetes.apply([
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "kube-system"},
         "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"name": f"{name}-1", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": name}},
         "endpoints": [{"addresses": [CONTROL], "conditions": {"ready": True}}], "ports": [{"name": "https", "port": port}]},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": service},
         "spec": {"group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
                  "insecureSkipTLSVerify": True, "service": {"name": name, "namespace": "kube-system"}}},
    ])
    served(kubernetes, service)


class Prometheus:
    """Beside the control plane. Debian's cannot ask the API server for targets, so it asks Kubernetes' DNS: the SRV records of
    the nodes' headless Service are their pods."""

    def __init__(self, kubernetes, programs):
        control = self._control = kubernetes.control
        self._programs = programs
        self._rules = control.path("rules.yaml")
        self._rules.write_text(json.dumps({"groups": []}))
        self._jobs = []
        self._write()
        control.path("resolv.conf").write_text(f"nameserver {CONTROL}\n")
        # Only it sees that name server.
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        self.process = control.spawn(
            "prometheus", "-m", "sh", "-c", script, "sh", control.path("resolv.conf"), programs / "prometheus",
            f"--config.file={control.path('prometheus.yaml')}", f"--storage.tsdb.path={control.path('prometheus')}",
            f"--web.listen-address={CONTROL}:9090", "--web.enable-lifecycle", program="unshare",
        )
        ready = lambda: http_client.ask(f"{PROMETHEUS}/-/ready", "GET", None, None, timeout=5)[0] == 200  # noqa: E731
        eventually("Prometheus is ready", ready, 60, every=0.5)

    def _write(self):
        self._control.path("prometheus.yaml").write_text(json.dumps({
            "global": {"scrape_interval": "2s", "evaluation_interval": "2s"}, "rule_files": [str(self._rules)], "scrape_configs": self._jobs,
        }))

    def _reload(self):
        code, text = http_client.ask(f"{PROMETHEUS}/-/reload", "POST", None, None, timeout=10)
        assert code == 200, text

    def scrape(self, mail):
        """What a ServiceMonitor would make it do: all pods of a MailCluster, under the labels that people know, and that of the rule file."""
        fixed = {"job": "prickle", "namespace": mail.namespace, "service": f"{mail.name}-nodes"}
        name = f"_http._tcp.{fixed['service']}.{mail.namespace}.svc.cluster.local"
        self._jobs.append({
            "job_name": mail.namespace, "metrics_path": "/metrics",
            "dns_sd_configs": [{"names": [name], "type": "SRV", "refresh_interval": "3s"}],
            "relabel_configs": [
                *({"target_label": label, "replacement": value} for label, value in fixed.items()),
                {"source_labels": ["__address__"], "regex": "([^.]+)[.].*", "target_label": "pod"},
            ],
        })
        self._write()
        self._reload()

    def query(self, expression):
        """Label sets and values."""
        url = f"{PROMETHEUS}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        code, text = http_client.ask(url, "GET", None, None, timeout=10)
        assert code == 200, text
        return [(found["metric"], float(found["value"][1])) for found in json.loads(text)["data"]["result"]]

    def number(self, expression):
        found = self.query(expression)
        assert len(found) == 1, f"{expression}: {found}"
        return found[0][1]

    def load_rules(self, groups):
        """Those of a PrometheusRule or rule file; Prometheus' own checker must accept them."""
        self._rules.write_text(json.dumps({"groups": groups}))
        namespaces.run(self._programs / "promtool", "check", "rules", self._rules)
        self._reload()

    def rules(self):
        """Alerts as Prometheus sees them: name -> (health, state)."""
        _, text = http_client.ask(f"{PROMETHEUS}/api/v1/rules", "GET", None, None, timeout=10)
        groups = json.loads(text)["data"]["groups"]
        return {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}
