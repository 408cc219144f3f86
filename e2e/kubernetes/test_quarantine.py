"""A disk that came back as it was some time ago: the node puts its log aside, the operator tells, and nothing is lost."""

import shutil
import time
from pathlib import Path

from namespaces import run
from wait import eventually

#: Seconds after which peers know the head of a log that moved (docs/operations.md: every 10).
ANNOUNCED = 15
POD = "mail-2"


def disk(kubernetes, mail):
    """Where the pod's volume is, on its machine."""
    claim = mail.get("pvc", f"data-{POD}")
    volume = kubernetes.get("pv", claim["spec"]["volumeName"])
    return kubernetes.machine(mail.pods()[POD]["spec"]["nodeName"]), volume["spec"]["local"]["path"]


def copy(source, target):
    """With owners and rights."""
    run("mkdir", "-p", target)
    run("cp", "-a", f"{source}/.", target)


def without_pod(kubernetes, mail, machine, work):
    """Does something to the disk while no node uses it."""
    kubernetes.kubectl("cordon", machine.name)
    try:
        uid = mail.pods()[POD]["metadata"]["uid"]
        mail.kubectl("delete", "pod", POD, "--timeout=90s", timeout=100)
        # The next one waits for its machine, where its disk is.
        eventually("the pod is another", lambda: mail.pods()[POD]["metadata"]["uid"] != uid, 60, every=0.5)
        work()
    finally:
        kubernetes.kubectl("uncordon", machine.name)
    mail.wait_settled(nodes=3)


def test_an_older_disk_is_told_and_refilled(kubernetes, loaded, report, tmp_path):
    mail, traffic = loaded(nodes=3)
    machine, path = disk(kubernetes, mail)
    older = tmp_path / "older"
    with traffic.running():
        time.sleep(3)
        without_pod(kubernetes, mail, machine, lambda: copy(path, older))
        assert mail.condition("Quarantined")["status"] == "False"
        time.sleep(ANNOUNCED)
        held = mail.http("GET", "/metrics", pod=POD)[1]

        def roll_back():
            for part in Path(path).iterdir():
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            copy(older, path)
        without_pod(kubernetes, mail, machine, roll_back)
        begun = time.monotonic()

        def told():
            condition = mail.condition("Quarantined")
            assert condition["status"] == "True" and POD in condition["message"], condition
            return condition
        condition = eventually("the operator tells of it", told, 60, every=0.5)
        seconds = time.monotonic() - begun
    assert "rolled back" in condition["message"] and "prickle.email/quarantine-seen" in condition["message"], condition
    assert "prickle_log_quarantine_timestamp_seconds 0\n" in held
    events = [event for event in mail.get("events") if event["reason"] == "LogQuarantined"]
    assert len(events) == 1 and events[0]["type"] == "Warning" and POD in events[0]["message"], events
    report(f"told {seconds:.1f} s after the cluster was settled again: {condition['message']}")
    report(traffic.check())

    # A person has seen it.
    at = mail.found()["status"]["quarantined"][0]["at"]
    mail.kubectl("annotate", "mailcluster", "mail", f"prickle.email/quarantine-seen={at}")
    eventually("the condition is over", lambda: mail.condition("Quarantined")["status"] == "False", 60, every=0.5)
