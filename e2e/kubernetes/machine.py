"""One machine of the cluster: a network namespace, and a mount namespace with a /run of its own, in which its containerd,
kubelet and kube-proxy run. All that runs in it, pods included, is in one control group, so that it can die as one."""

import json
import os

import namespaces
from control import proxy_arguments
from namespaces import DNS_SERVICE, PREFIX, in_group, machine_address, pod_range, run
from process import Process
from wait import eventually

PAUSE = "prickle/pause:1"


class Machine:
    def __init__(self, directory, binaries, control, number):
        self.name = f"machine-{number}"
        self.number = number
        self.address = machine_address(number)
        self.directory = directory / self.name
        self.directory.mkdir()
        self.binaries = binaries
        self.control = control
        self.processes = []

    def __repr__(self):
        return self.name

    def path(self, name):
        return self.directory / name

    def start(self, images):
        namespaces.make_namespace(self.name, self.address)
        self.boot(images)

    def boot(self, images):
        """Starts what a machine runs. Its disk is as it was."""
        namespaces.make_group(f"{self.name}/pods")
        namespaces.make_group(f"{self.name}/system")
        namespaces.weigh(self.name, namespaces.PODS_SHARES)
        self._configure()
        # Some of what kubelet and containerd write has fixed places, which machines must not share.
        script = (
            'mount --make-rshared / && for place in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $place || exit; done'
            ' && : >"$1" && exec sleep infinity'
        )
        self.path("booted").unlink(missing_ok=True)
        holder = Process(
            f"{self.name} holder",
            [*in_group(f"{self.name}/system"), *namespaces.enter(self.name), "unshare", "-m", "sh", "-c", script, "sh", self.path("booted")],
            self.path("holder.log"),
        )
        self.processes = [holder]
        eventually(f"{self} has its mounts", lambda: self.path("booted").exists(), 20)
        self.inside = ["nsenter", f"--target={holder.pid}", "--net", "--mount"]
        self.spawn("containerd", "containerd", "--config", self.path("containerd.toml"))
        eventually(f"containerd of {self} answers", lambda: "SERVER" in run(*self._ctr(), "version").upper(), 60)
        for image in images:
            self.load(image)
        self.spawn(
            "kubelet", self.binaries / "kubelet", f"--config={self.path('kubelet.json')}",
            f"--kubeconfig={self.control.kubeconfig(self.name)}", f"--root-dir={self.path('kubelet')}",
            f"--cert-dir={self.path('pki')}", f"--node-ip={self.address}", f"--hostname-override={self.name}",
        )

    def start_proxy(self):
        """Once Kubernetes knows the machine; it would not wait for long."""
        self.spawn(
            "kube-proxy", self.binaries / "kube-proxy",
            *proxy_arguments(self.control.kubeconfig("kube-proxy"), self.name),
        )

    def spawn(self, name, *command):
        command = [*in_group(f"{self.name}/system"), *self.inside, *command]
        self.processes.append(Process(f"{self.name} {name}", command, self.path(f"{name}.log")))
        return self.processes[-1]

    def _ctr(self):
        return [*self.inside, "ctr", "--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"]

    def load(self, archive):
        run(*self._ctr(), "images", "import", archive, timeout=300)

    def kill(self):
        """Power off: kubelet, containerd and all pods at once."""
        namespaces.end_group(self.name)
        for process in self.processes:
            process.end()

    def _configure(self):
        write = lambda name, value: self.path(name).write_text(value if isinstance(value, str) else json.dumps(value, indent=1))  # noqa: E731
        self.path("cni").mkdir(exist_ok=True)
        write("cni/10-pods.conflist", {
            "cniVersion": "1.0.0", "name": "pods", "plugins": [{
                "type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True,
                "ipam": {
                    "type": "host-local", "dataDir": str(self.path("addresses")),
                    "ranges": [[{"subnet": pod_range(self.number)}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            }],
        })
        write("containerd.toml", f'''
version = 2
root = "{self.path('containerd')}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.path('opt')}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.path('cni')}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
''')
        write("resolv.conf", f"nameserver {namespaces.CONTROL}\n")
        write("kubelet.json", {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            # On a private bridge, and the test's own.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{PREFIX}/{self.name}/pods", "failSwapOn": False,
            "clusterDNS": [DNS_SERVICE], "clusterDomain": "cluster.local", "resolvConf": str(self.path("resolv.conf")),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "nodeLeaseDurationSeconds": 12, "nodeStatusUpdateFrequency": "4s", "syncFrequency": "10s",
            "podLogsDir": str(self.path("pod-logs")), "volumePluginDir": str(self.path("plugins")),
            # How full the computer's disk is decides nothing here.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "makeIPTablesUtilChains": False, "maxPods": 60,
        })

    def make_volumes(self, count):
        """Local disks, as objects of Kubernetes."""
        for index in range(count):
            path = self.path(f"volumes/{index}")
            path.mkdir(parents=True, exist_ok=True)
            os.chmod(path, 0o777)
            yield {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{self.name}-{index}"},
                "spec": {
                    "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "disks",
                    "persistentVolumeReclaimPolicy": "Retain", "local": {"path": str(path)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.name]}]}]}},
                },
            }
