"""The NetworkPolicy that the operator writes, enforced: kube-router's firewall in each machine (the CNI plugin here has none)."""

import subprocess
from pathlib import Path

import pytest

import namespaces
from mail import POD_PORTS
from namespaces import run
from wait import eventually

HERE = Path(__file__).resolve().parent
RPC_PORT = 7001
#: Where no pod, node or administrator is: the control plane's namespace.
STRANGER = "control"
#: Connects, or says in two seconds that it cannot.
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()"


def is_open(address, port, name=STRANGER):
    done = subprocess.run([*namespaces.enter(name), "python3", "-c", KNOCK, address, str(port)], capture_output=True, timeout=20)
    return done.returncode == 0


@pytest.fixture
def enforced(kubernetes):
    """Starts the firewalls; afterwards there are none, and nothing of what they wrote."""
    program = subprocess.run([HERE / "build-network-policy.sh"], stdout=subprocess.PIPE, text=True, check=True, timeout=1800).stdout.strip()
    started = []

    def start():
        for machine in kubernetes.machines:
            started.append(machine.spawn(
                "kube-router", program, f"--kubeconfig={kubernetes.control.kubeconfig('admin')}", f"--hostname-override={machine.name}",
                "--run-firewall=true", "--run-router=false", "--run-service-proxy=false", "--enable-cni=false",
                f"--service-cluster-ip-range={namespaces.SERVICES}", "--iptables-sync-period=5s", "--health-port=0", "--metrics-port=0",
            ))
    yield start
    for process in started:
        process.end()
    for machine in kubernetes.machines:
        run(*machine.inside, "iptables", "--flush")
        run(*machine.inside, "iptables", "--delete-chain")
        run(*machine.inside, "ipset", "destroy")


def test_only_those_whom_the_policy_names_reach_nodes(enforced, loaded, report):
    # The test asks the admin API from the computer itself, which the policy therefore has to name.
    host = {"ipBlock": {"cidr": f"{namespaces.HOST}/32"}}
    mail, traffic = loaded(nodes=3, networkPolicy={"monitoring": [host]})
    addresses = [pod["status"]["podIP"] for pod in mail.pods().values()]
    closed = (RPC_PORT, POD_PORTS["http"])
    for address in addresses:
        assert all(is_open(address, port) for port in (*closed, *POD_PORTS.values())), "nobody enforces anything yet"
    with traffic.running():
        enforced()

        def shut():
            found = [(address, port) for address in addresses for port in closed if is_open(address, port)]
            assert not found, found
            return True
        eventually("strangers reach neither the nodes' protocol nor the admin API", shut, 90, every=1)
        for address in addresses:
            assert all(is_open(address, POD_PORTS[name]) for name in ("smtp", "imaps")), "the mail ports are for everybody"
        # Nodes reach each other, the operator reaches them: a pod is replaced, and all is well again.
        mail.kubectl("delete", "pod", "mail-1", "--timeout=90s", timeout=100)
        mail.wait_settled(nodes=3)
        traffic.flows()
        new = mail.address_of("mail-1")
        assert all(not is_open(new, port) for port in closed) and is_open(new, POD_PORTS["smtp"])

        # Mail ports for some only.
        mail.patch(networkPolicy={"monitoring": [host], "clients": [host, {"ipBlock": {"cidr": namespaces.PODS}}]})
        eventually("the mail ports are shut, too", lambda: not is_open(new, POD_PORTS["imaps"]), 60, every=1)
        mail.imap(traffic.users[0], new).logout()
        # None wanted: all is open again.
        mail.patch(networkPolicy={"enabled": False})
        eventually("all is open", lambda: all(is_open(new, port) for port in (*closed, *POD_PORTS.values())), 60, every=1)
    report("kube-router kept strangers from the nodes' protocol, the admin API and, where clients are named, the mail ports")
    report(traffic.check())
