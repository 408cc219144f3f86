"""A real Kubernetes of three machines on this computer, and a user's tools for it."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import namespaces
from control import ControlPlane
from machine import PAUSE, Machine
from images import archive
from namespaces import CONTROL, DNS_SERVICE, run
from wait import eventually

HERE = Path(__file__).resolve().parent
LOCK = Path("/run/lock") / namespaces.PREFIX
#: How long another run on this computer is waited for.
LOCK_SECONDS = 1_200
READY_SECONDS = 240
VOLUMES = 30
#: Disks of machines, in the directory for temporary files.
DISKS = f"prickle-kubernetes-{namespaces.LANE}-"
#: Gigabytes that a lane needs there, a third of it in reserve, and one with KEDA more; and what Go keeps where they are not built yet.
DISKS_SPACE, KEDA_SPACE, CACHE_SPACE, GO_SPACE = 2, 2, 2, {"GOCACHE": 8, "GOMODCACHE": 5}
#: The oldest Go that fetches the one that is wanted.
GO = (1, 21)


def why_not():
    """Why this computer cannot run it, in words for a person; None if it can."""
    if namespaces.LANES > namespaces.MOST_LANES:
        return f"there are addresses for {namespaces.MOST_LANES} of them, not for {namespaces.LANES}"
    if os.geteuid() != 0:
        return "it needs root: for network namespaces, mounts and control groups"
    if shutil.which("go") is None:
        return "it needs Go, which builds Kubernetes from the Go module proxy: install golang"
    said = run("go", "env", "GOVERSION")
    if (found := re.match(r"go(\d+)\.(\d+)", said)) and tuple(map(int, found.groups())) < GO:
        return f"it needs Go {GO[0]}.{GO[1]} or later, which fetches the one it wants; here is {said.strip()}"
    if not namespaces.has_groups():
        return "it needs writable control groups of version 1 (or hybrid) in /sys/fs/cgroup"
    overlay = 'cd "$0" && mkdir a b c d && mount -t overlay overlay -o lowerdir=a,upperdir=b,workdir=c d && : >d/file'
    with tempfile.TemporaryDirectory() as directory:
        for what, command in (
            ("network namespaces", ("unshare", "--net", "true")),
            ("bridges and virtual cables", ("unshare", "--net", "sh", "-c", "ip link add bridge0 type bridge && ip link add cable0 type veth peer name cable1")),
            ("mounts of its own", ("unshare", "--mount", "sh", "-c", "mount --make-rshared / && mount -t tmpfs tmpfs /mnt")),
            ("overlays where temporary files are", ("unshare", "--mount", "sh", "-c", overlay, directory)),
        ):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
            if done.returncode != 0:
                return f"it needs {what}: `{' '.join(command)}` says {done.stderr.strip()}"
    return _no_room()


def _no_room():
    """Why the disks are too full, if they are."""
    wanted = [(tempfile.gettempdir(), DISKS_SPACE * namespaces.LANES + KEDA_SPACE)]
    if run(HERE / "build.sh", "--missing"):
        wanted += [(run("go", "env", name).strip(), space) for name, space in GO_SPACE.items()]
        wanted.append((os.environ.get("PRICKLE_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", CACHE_SPACE))
    on = {}
    for place, space in wanted:
        there = next(path for path in (Path(place).resolve(), *Path(place).resolve().parents) if path.exists())
        paths, spaces = on.setdefault(there.stat().st_dev, ([], []))
        paths.append(there)
        spaces.append(space)
    for paths, spaces in on.values():
        free = shutil.disk_usage(paths[0]).free / 1e9
        if free < sum(spaces):
            return f"it needs {sum(spaces)} GB of free disk in {', '.join(map(str, paths))}; there are {free:.1f}"
    return None


def build():
    """Directory of the programs."""
    done = subprocess.run([HERE / "build.sh"], stdout=subprocess.PIPE, text=True, check=True, timeout=3600)
    return Path(done.stdout.strip().splitlines()[-1])


class Kubernetes:
    def __init__(self, binaries, machines=3):
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        self._lock = LOCK.open("w")
        eventually("no other run on this computer", self._locked, LOCK_SECONDS, every=1)
        self._clear()
        # Clients here and programs of the cluster reach each other without the proxy that the environment may name.
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), namespaces.RANGE)))
        self.binaries = binaries
        #: The program in the images, for what administrators do from outside.
        self.mailnode = None
        self.directory = Path(tempfile.mkdtemp(prefix=DISKS))
        names = [f"machine-{number + 1}" for number in range(machines)]
        self.control = ControlPlane(self.directory, binaries, names)
        self.machines = [Machine(self.directory, binaries, self.control, number + 1) for number in range(machines)]
        self.images = [archive(
            self.directory / "pause.tar", [PAUSE], binaries / "pause", "/pause", {"Entrypoint": ["/pause"], "User": "65532:65532"},
        )]

    # Life

    def _locked(self):
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    def start(self):
        namespaces.share()
        namespaces.make_bridge()
        self.control.start()
        for machine in self.machines:
            machine.start(self.images)
            namespaces.route(namespaces.pod_range(machine.number), machine.address)
        for machine in self.machines:
            for name in [other.name for other in self.machines if other is not machine] + ["control"]:
                namespaces.route(namespaces.pod_range(machine.number), machine.address, name)
        self.apply(self._ground())
        eventually("all machines are ready", self.machines_ready, READY_SECONDS, every=0.5)
        for machine in self.machines:
            machine.start_proxy()
        self.control.start_proxy()
        return self

    def revive(self, *machines):
        """Machines that were killed start again, with what is left of their disks."""
        for machine in machines:
            machine.boot(self.images)
        eventually(f"{machines} are back", self.machines_ready, READY_SECONDS, every=1)
        for machine in machines:
            machine.start_proxy()

    def machines_ready(self):
        nodes = self.get("nodes")
        ready = [
            node["metadata"]["name"] for node in nodes
            for condition in node["status"].get("conditions", []) if condition["type"] == "Ready" and condition["status"] == "True"
        ]
        assert len(ready) == len(self.machines), f"ready: {ready}"
        return True

    def _ground(self):
        volumes = [volume for machine in self.machines for volume in machine.make_volumes(VOLUMES)]
        return [
            {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
             "metadata": {"name": "disks", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
             "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
             "spec": {"clusterIP": DNS_SERVICE, "ports": [
                 {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"name": "kube-dns-1", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
             "endpoints": [{"addresses": [CONTROL]}],
             "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "coredns"},
             "rules": [
                 {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                 {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "coredns"},
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"},
             "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "system:coredns"}]},
            *volumes,
        ]

    @staticmethod
    def _end():
        namespaces.end_group()
        namespaces.remove_network()

    def _clear(self):
        """What a run that was killed left behind, or that kept its disks."""
        self._end()
        for left in Path(tempfile.gettempdir()).glob(f"{DISKS}*"):
            if left.lstat().st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)

    def stop(self):
        try:
            self._clear() if os.environ.get("PRICKLE_KEEP") is None else self._end()
        finally:
            self._lock.close()

    def load(self, image):
        """An image on all machines, also after they were started again."""
        self.images.append(image)
        for machine in self.machines:
            machine.load(image)

    # Tools

    def kubectl(self, *arguments, **options):
        return self.control.kubectl(*arguments, **options)

    def apply(self, objects):
        objects = objects if isinstance(objects, list) else [objects]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text, timeout=120)

    def get(self, *arguments):
        """An object, or the items of a list."""
        found = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found["items"] if found["kind"].endswith("List") else found

    def helm(self, *arguments, timeout=300):
        config = self.control.path("admin.kubeconfig")
        return run(self.binaries / "helm", f"--kubeconfig={config}", *arguments, timeout=timeout)

    def install_chart(self):
        """`helm install`, as a new user would."""
        self.helm("install", "prickle", HERE.parent.parent / "charts/prickle", "--namespace", "prickle-system", "--create-namespace",
                  "--wait", "--timeout", "240s")

    def machine(self, name):
        return next(machine for machine in self.machines if machine.name == name)

    # When a test fails

    def save_state(self, directory, namespace):
        """Everything that a person would look at, in one folder."""
        directory.mkdir(parents=True, exist_ok=True)

        def save(name, *arguments):
            try:
                text = self.kubectl(*arguments, check=False, timeout=30)
            except Exception as error:  # noqa: BLE001 - the API server may be the patient
                text = repr(error)
            (directory / name).write_text(text)
        for kind in ("mailclusters", "statefulsets", "pods", "persistentvolumeclaims", "services", "endpointslices", "leases"):
            save(f"{kind}.yaml", "get", kind, "-n", namespace, "-o", "yaml")
        save("overview.txt", "get", "nodes,pv,pods,mailclusters", "-A", "-o", "wide")
        save("pods.txt", "describe", "pods", "-n", namespace)
        for where in (namespace, "prickle-system"):
            save(f"events-{where}.txt", "get", "events", "-n", where, "--sort-by=.lastTimestamp")
            names = self.kubectl("get", "pods", "-n", where, "-o", "name", check=False).split()
            for name in names:
                save(f"{name.split('/')[1]}.log", "logs", "-n", where, name, "--tail=20000")
                save(f"{name.split('/')[1]}.previous.log", "logs", "-n", where, name, "--previous")
        for log in self.directory.glob("*/*.log"):
            text = log.read_text(errors="replace")
            (directory / f"{log.parent.name}-{log.name}").write_text(text[-400_000:])
