"""Accounts in a TiKV that runs in the same Kubernetes: the test server of e2e/tikv in a pod (docs/tikv.md says what that does not
prove). Two MailClusters share it, and it goes away."""

import subprocess
import time

import pytest

import images
from traffic import Traffic
from wait import eventually

NAMESPACE = "tikv"
IMAGE = "prickle/tikv-test-server:e2e"
PD = f"pd.{NAMESPACE}.svc:2379"
AWAY_SECONDS = 60


@pytest.fixture
def tikv(kubernetes):
    """PD and TiKV in one pod, with a volume; `pd` is their Service."""
    built = subprocess.run([images.ROOT / "e2e/tikv/build.sh"], stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    config = {"Entrypoint": ["/tikv-test-server"], "User": "65532:65532"}
    program = images.Path(built.stdout.strip().splitlines()[-1])
    kubernetes.load(images.archive(kubernetes.directory / "tikv.tar", [IMAGE], program, "/tikv-test-server", config))
    labels = {"app": "tikv"}
    kubernetes.apply([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pd", "namespace": NAMESPACE},
         "spec": {"selector": labels, "ports": [{"name": "pd", "port": 2379}]}},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "tikv", "namespace": NAMESPACE}, "spec": {
            "serviceName": "pd", "replicas": 1, "selector": {"matchLabels": labels},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 0, "securityContext": {"fsGroup": 65532},
                "containers": [{
                    "name": "tikv", "image": IMAGE, "imagePullPolicy": "Never",
                    # It ends with its standard input, on which faults are asked for.
                    "stdin": True,
                    "args": ["-data", "/data/store", "-pd", "$(ADDRESS):2379", "-kv", "$(ADDRESS):20160"],
                    "env": [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "ports": [{"name": "pd", "containerPort": 2379}],
                    "readinessProbe": {"tcpSocket": {"port": "pd"}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }]}}}},
    ])
    scale(kubernetes, 1)
    yield
    kubernetes.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def scale(kubernetes, replicas):
    """Starts it, at another address than before, or ends it."""
    kubernetes.kubectl("-n", NAMESPACE, "scale", "statefulset/tikv", f"--replicas={replicas}")

    def done():
        found = kubernetes.get("-n", NAMESPACE, "statefulset", "tikv")["status"]
        assert found.get("readyReplicas", 0) == replicas and found.get("replicas", 0) == replicas, found
        return True
    eventually(f"TiKV has {replicas} pods", done, 90, every=0.5)


def database(prefix):
    return {"userDatabase": {"tikv": {"pdEndpoints": [PD], "keyPrefix": prefix}}}


@pytest.mark.short(135)
def test_two_clusters_in_one_tikv_that_is_away_for_a_minute(kubernetes, tikv, mail, report):
    one, two = mail(nodes=3, **database("one/")), mail(nodes=2, **database("two/"))
    report(f"{one.seconds_to_ready:.1f} s from kubectl apply to Ready with accounts in TiKV")
    loads = [Traffic(one), Traffic(two)]
    for load in loads:
        # Slower than other loads: a folder's 1,000 reserved numbers must last, or new mail waits for TiKV unseen (docs/tikv.md).
        load.pause = 0.5
    # The same address is another account in each.
    twin = {"address": f"twin@{loads[0].users[0].address.split('@')[1]}", "password": "a long password"}
    assert [cluster.http("POST", "/v1/users", twin)[0] for cluster in (one, two)] == [201, 201]
    ids = [cluster.http("GET", f"/v1/users/{twin['address']}")[1] for cluster in (one, two)]
    assert ids[0] != ids[1]
    strange = [cluster.http("GET", f"/v1/users/{load.users[0].address}")[0] for cluster, load in ((one, loads[1]), (two, loads[0]))]
    assert strange == [404, 404], "one sees the other's accounts"

    with loads[0].running(), loads[1].running():
        # Every node meets every account.
        time.sleep(20)
        begun = time.monotonic()
        scale(kubernetes, 0)
        try:
            while time.monotonic() < begun + AWAY_SECONDS:
                time.sleep(10)
                for load in loads:
                    load.flows(30)
            asked = time.monotonic()
            code, text = one.http("POST", "/v1/users", {"address": "new@example.org", "password": "a long password"})
            assert code == 503 and "user database" in text, f"{code} {text}"
            refused = time.monotonic() - asked
        finally:
            scale(kubernetes, 1)
        back = time.monotonic()
        gaps = [load.longest_gap(begun) for load in loads]
        report(f"TiKV away for {back - begun:.0f} s: longest pause of a client {max(gaps):.1f} s, a new account refused in {refused:.1f} s")
        one.add_user()
        two.add_user()
        report(f"accounts can be made again {time.monotonic() - back:.1f} s after TiKV is back, at another address")
        for load in loads:
            load.flows()
    for cluster, load in zip((one, two), loads):
        restarts = {name: pod["status"]["containerStatuses"][0]["restartCount"] for name, pod in cluster.pods().items()}
        assert set(restarts.values()) == {0}, restarts
        report(load.check())
