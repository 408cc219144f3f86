"""The cluster's secret is replaced under load, by kubectl alone (docs/security.md, "Replacing the cluster secret")."""

import base64
import json
import secrets
import time

from test_scenarios import uids
from wait import eventually

SECRET = "mail-cluster-secret"


def told(mail):
    """What each node says of the secret: its versions, the one in use, copies of keys that an older one wraps."""
    said = {member["name"]: member["node"]["secret"] for member in mail.status()["members"]}
    assert set(said) == set(mail.pods()), said
    return said


def restarts(mail):
    """Which pods there are, and how often each was started again."""
    counts = {name: pod["status"]["containerStatuses"][0]["restartCount"] for name, pod in mail.pods().items()}
    return uids(mail), counts


def is_used_alone(mail):
    """Nothing is wrapped by an older version at any node."""
    said = told(mail)
    assert all(one["current"] == 2 and one["wrappedByOlder"] == 0 for one in said.values()), said
    return True


def has_versions(mail, versions):
    said = told(mail)
    assert all(one["versions"] == versions for one in said.values()), said
    return True


def patch(mail, change):
    mail.kubectl("patch", "secret", SECRET, "--type=merge", "-p", json.dumps({"data": change}))


def test_the_cluster_secret_is_replaced(loaded, report):
    mail, traffic = loaded(nodes=3)
    before = restarts(mail)
    first = mail.get("secret", SECRET)["data"]["secret"]
    with traffic.running():
        time.sleep(15)
        wrapped = len(traffic.recorder.acknowledged)
        assert has_versions(mail, [1])
        begun = time.monotonic()
        patch(mail, {"secret-2": base64.b64encode(secrets.token_bytes(48)).decode()})
        eventually("all nodes have both versions", lambda: has_versions(mail, [1, 2]), 120, every=0.5)
        known = time.monotonic()
        eventually("nothing is wrapped by the older one", lambda: is_used_alone(mail), 180, every=0.5)
        anew = time.monotonic()
        lines = mail.kubectl("exec", "mail-0", "--", "mailnode", "cluster", "status").splitlines()
        done = [line.split(":")[0] for line in lines if "versions 1, 2 of the cluster secret, 2 in use; no key here needs an older one" in line]
        assert sorted(done) == ["mail-0", "mail-1", "mail-2"], lines

        # The older one goes.
        patch(mail, {"secret": None})
        eventually("only the newer one is left", lambda: has_versions(mail, [2]), 120, every=0.5)
        gone = time.monotonic()
        # Longer than the operator takes to look again; it leaves the Secret as it is, and complains of nothing.
        time.sleep(10)
        mail.wait_settled(60, nodes=3)
        assert set(mail.get("secret", SECRET)["data"]) == {"secret-2"}
        assert restarts(mail) == before
        report(f"{wrapped} messages under the first secret; the second at all nodes after {known - begun:.1f} s, all keys wrapped by it after "
               f"{anew - begun:.1f} s; the first gone from all {gone - anew:.1f} s after its removal; no pod restarted; "
               f"longest pause of a client {traffic.longest_gap(begun):.1f} s")
        # Keys that follow from the first secret are in no memory after this.
        rolling = time.monotonic()
        mail.kubectl("rollout", "restart", "statefulset/mail")
        eventually("all pods are others", lambda: not set(uids(mail).values()) & set(before[0].values()), 300, every=1)
        mail.wait_settled(300, nodes=3)
        report(f"restarted one by one in {time.monotonic() - rolling:.1f} s, longest pause of a client {traffic.longest_gap(rolling):.1f} s")
    assert has_versions(mail, [2])
    assert first not in mail.get("secret", SECRET)["data"].values()
    report(traffic.check())
