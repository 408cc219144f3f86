"""Admin commands and the HTTP API, on any node; health, metrics and the API's description."""

import json
import subprocess

import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

import clients
from cluster import MAILNODE
from wait import eventually


def can_log_in(node, address, password):
    import imaplib

    from cluster import User

    try:
        clients.imap(node, User(address, password)).logout()
    except imaplib.IMAP4.error:
        return False
    return True


def test_accounts_are_added_shown_changed_listed_and_removed_through_different_nodes(cluster):
    first, second, third = cluster.nodes
    address = "dora@example.org"
    cluster.admin("user", "add", address, node=first, input="a first password\n")
    assert address in cluster.admin("user", "list", node=second).split()
    shown = cluster.admin("user", "show", address, node=third)
    assert address in shown and "INBOX" in shown and "password" not in shown
    assert can_log_in(second, address, "a first password")
    twice = cluster.admin("user", "add", address, node=second, input="another password\n", check=False)
    assert twice.returncode == 1 and "exists" in twice.stderr
    cluster.admin("user", "passwd", address, node=second, input="a second password\n")
    eventually("the old password is refused", lambda: not can_log_in(third, address, "a first password"), 5)
    assert can_log_in(third, address, "a second password")
    cluster.admin("user", "remove", address, node=third)
    eventually("the account is gone", lambda: not can_log_in(first, address, "a second password"), 5)
    assert address not in cluster.admin("user", "list", node=first).split()
    gone = cluster.admin("user", "show", address, node=first, check=False)
    assert gone.returncode == 1 and "not found" in gone.stderr


def test_mail_is_taken_for_domains_that_were_added_and_only_those(cluster):
    first, second, third = cluster.nodes
    cluster.admin("domain", "add", "example.com", node=first)
    assert {"example.com", "example.org"} <= set(cluster.admin("domain", "list", node=second).split())
    cluster.admin("user", "add", "erik@example.com", node=second, input="a long password\n")
    with clients.smtp(third) as smtp:
        smtp.ehlo()
        clients.send(smtp, "a@example.net", ["erik@example.com"], b"Subject: hi\r\n\r\nhi\r\n")
    cluster.admin("user", "remove", "erik@example.com", node=third)
    cluster.admin("domain", "remove", "example.com", node=third)
    assert "example.com" not in cluster.admin("domain", "list", node=first).split()

    def refused():
        with clients.smtp(second) as smtp:
            smtp.ehlo()
            smtp.mail("a@example.net")
            return smtp.rcpt("erik@example.com")[0] == 550
    eventually("mail for the removed domain is refused", refused, 5)


def test_mail_to_an_alias_reaches_all_its_targets(cluster):
    first, second, third = cluster.nodes
    one, other = cluster.add_user(), cluster.add_user()
    cluster.admin("alias", "add", "team@example.org", one.address, other.address, node=first)
    assert f"team@example.org -> {one.address}, {other.address}" in cluster.admin("alias", "list", node=second)
    with clients.smtp(third) as smtp:
        smtp.ehlo()
        clients.send(smtp, "a@example.net", ["team@example.org"], b"Subject: hi\r\n\r\nhi\r\n")
    for user in (one, other):
        with clients.imap(first, user) as imap:
            assert clients.ok(imap.select("INBOX")) == [b"1"]
    cluster.admin("alias", "remove", "team@example.org", node=second)
    assert "team@example.org" not in cluster.admin("alias", "list", node=third)


def test_every_node_tells_the_same_cluster_status(cluster):
    told = []
    for node in cluster.nodes:
        status = json.loads(cluster.admin("cluster", "status", "--json", node=node))
        told.append((status["epoch"], status["coordinator"], sorted(m["name"] for m in status["members"])))
        assert all(member["state"] == "active" and member["reachable"] for member in status["members"])
        assert sum(member["buckets"] for member in status["members"]) == 4096
        assert cluster.admin("cluster", "status", node=node).startswith(f"epoch {status['epoch']}, coordinator ")
    assert told[0] == told[1] == told[2]
    assert told[0][2] == ["node-1", "node-2", "node-3"]


@pytest.mark.parametrize("token", ["", "not the right token"])
def test_without_the_right_token_nothing_is_told_or_changed(cluster, tmp_path, token):
    node = cluster.nodes[0]
    for method, path, body in [
        ("GET", "/v1/users", None),
        ("POST", "/v1/users", {"address": "eve@example.org", "password": "a long password"}),
        ("GET", "/v1/cluster", None),
        ("DELETE", "/v1/domains/example.org", None),
    ]:
        status, text = node.http(method, path, body, token=token)
        assert status == 401, (method, path, text)
        assert "error" in json.loads(text)
    wrong = tmp_path / "wrong.token"
    wrong.write_text("not the right token")
    refused = cluster.admin("user", "list", node=node, token_file=wrong, check=False)
    assert refused.returncode == 1 and "401" in refused.stderr
    assert "eve@example.org" not in cluster.admin("user", "list", node=node)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"address": "no-at-sign", "password": "a long password"}, 422),
        ({"address": "short@example.org", "password": "short"}, 422),
        ({"address": "x@example.org", "password": "a long password", "colour": "red"}, 422),
    ],
)
def test_bad_input_gets_an_error_that_says_what(cluster, body, expected):
    status, text = cluster.nodes[0].http("POST", "/v1/users", body)
    assert status == expected and text, (status, text)


def test_health_needs_no_token(cluster):
    for node in cluster.nodes:
        assert node.http("GET", "/healthz", token="") == (200, "ok\n")
        assert node.http("GET", "/readyz", token="") == (200, "ok\n")


def test_metrics_are_valid_and_follow_the_conventions(cluster, user):
    with clients.lmtp(cluster.nodes[0]) as lmtp:
        clients.send(lmtp, "a@example.net", [user.address], b"Subject: count me\r\n\r\nhi\r\n")
    status, text = cluster.nodes[0].http("GET", "/metrics", token="")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) > 10
    for name, family in families.items():
        assert name.startswith("prickle_"), name
        assert family.documentation, f"{name} has no HELP"
        assert family.type in ("counter", "gauge", "histogram"), f"{name} has no TYPE"
        assert family.type != "gauge" or not name.endswith("_total"), f"{name}: a gauge is no total"
    counted = [line for line in text.splitlines() if line.startswith("# TYPE") and line.endswith(" counter")]
    assert all(line.split()[2].endswith("_total") for line in counted), "a counter's name ends with _total"
    delivered = families["prickle_delivered"].samples[0].value
    assert delivered >= 1


def test_openapi_json_is_valid_and_names_what_is_there(cluster):
    status, text = cluster.nodes[0].http("GET", "/openapi.json", token="")
    assert status == 200
    description = json.loads(text)
    validate(description)
    assert "/v1/users" in description["paths"]


def test_config_example_is_checked_and_errors_name_the_field(cluster, tmp_path):
    example = subprocess.run([MAILNODE, "config", "example"], capture_output=True, text=True, timeout=20)
    assert example.returncode == 0
    path = tmp_path / "node.yaml"
    path.write_text(example.stdout.replace("factor: 2", "factor: 99"))
    refused = subprocess.run([MAILNODE, "config", "check", "--config", path], capture_output=True, text=True, timeout=20)
    assert refused.returncode == 1 and "replication.factor" in refused.stderr
    good = cluster.nodes[0].config
    checked = subprocess.run([MAILNODE, "config", "check", "--config", good], capture_output=True, text=True, timeout=20)
    assert checked.returncode == 0, checked.stderr
