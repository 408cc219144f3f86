"""Nodes follow the load: a real autoscaler changes the MailCluster, and every step down goes through a drain. What was
acknowledged meanwhile is there exactly once. And what else a Prometheus is for: alerts, the dashboard."""

import json
import math
import re
import time

import pytest
import yaml

import autoscaling
import images
from test_scenarios import has_members
from wait import eventually

LEAST, MOST = 3, 5
LIGHT_PAUSE, HEAVY_PAUSE = 2.0, 0.02
#: Of writes that wait for the disk.
MEAN = "[40s]"
#: Quicker down than the operator's default, which takes half an hour.
BEHAVIOR = {
    "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 15}]},
    "scaleDown": {"stabilizationWindowSeconds": 20, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]},
}


@pytest.fixture(scope="module")
def programs():
    return autoscaling.build()


@pytest.fixture(scope="module")
def prometheus(kubernetes, programs):
    return autoscaling.Prometheus(kubernetes, programs)


@pytest.fixture(scope="module")
def keda(kubernetes, programs):
    autoscaling.install_keda(kubernetes, programs)


@pytest.fixture(scope="module")
def metrics_server(kubernetes):
    autoscaling.start_metrics_server(kubernetes)


@pytest.fixture(scope="module")
def adapter(kubernetes, prometheus):
    """By the rule that users get, but for a mean over a shorter time."""
    text = (images.ROOT / "manifests/monitoring/prometheus-adapter.yaml").read_text()
    assert "[2m]" in text
    autoscaling.start_prometheus_adapter(kubernetes, yaml.safe_load(text.replace("[2m]", MEAN))["rules"])


def autoscaler(mail, name):
    """The HorizontalPodAutoscaler, once it reads the scale and its metric."""
    found = mail.get("hpa", name)
    conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", [])}
    assert found["spec"]["scaleTargetRef"]["kind"] == "MailCluster", found["spec"]
    for kind in ("AbleToScale", "ScalingActive"):
        assert conditions.get(kind, {}).get("status") == "True", conditions
    return found


def events(mail, reason):
    return [event.get("note") or event.get("message") for event in mail.get("events") if event["reason"] == reason]


def up_and_down(mail, traffic, report, begin_load):
    """Load until there are MOST nodes, then little until there are LEAST; the load never ends."""
    begun = time.monotonic()
    begin_load()
    eventually("the autoscaler asks for more nodes", lambda: mail.found()["spec"]["nodes"] == MOST, 180, every=0.5)
    asked = time.monotonic()
    mail.wait_settled(nodes=MOST)
    traffic.flows()
    up = time.monotonic()
    traffic.pause = LIGHT_PAUSE
    eventually("the autoscaler asks for fewer nodes", lambda: mail.found()["spec"]["nodes"] < MOST, 240, every=0.5)
    fewer = time.monotonic()
    eventually("the autoscaler asks for the fewest", lambda: mail.found()["spec"]["nodes"] == LEAST, 240, every=0.5)
    mail.wait_settled(300, nodes=LEAST)
    report(f"load to {MOST} wanted {asked - begun:.1f} s, ready {up - begun:.1f} s; load gone to fewer wanted {fewer - up:.1f} s, "
           f"to {LEAST} nodes {time.monotonic() - up:.1f} s; longest pause of a client {traffic.longest_gap(begun):.1f} s")
    drained = events(mail, "Draining")
    assert {note.split()[0] for note in drained} >= {f"mail-{ordinal}" for ordinal in range(LEAST, MOST)}, drained
    has_members(mail, LEAST)


@pytest.mark.short(235)
def test_keda_and_prometheus_scale_with_the_load(keda, prometheus, loaded, report):
    mail, traffic = loaded(nodes=LEAST)
    prometheus.scrape(mail)
    rate = f'sum(rate(prickle_delivered_total{{namespace="{mail.namespace}",service="mail-nodes"}}[20s]))'
    traffic.pause = HEAVY_PAUSE
    with traffic.running():
        # What this computer can do decides what much is.
        time.sleep(25)
        much = prometheus.number(rate)
        report(f"{much:.1f} deliveries a second by Prometheus")
        threshold = much / (2 * MOST)
        traffic.pause = LIGHT_PAUSE
        eventually("there is little load", lambda: prometheus.number(rate) < threshold * LEAST / 2, 90, every=1)
        trigger = {"type": "prometheus", "metricType": "AverageValue", "metadata": {
            "serverAddress": autoscaling.PROMETHEUS, "query": rate, "threshold": f"{threshold:.3f}"}}
        mail.patch(autoscaling={"minNodes": LEAST, "maxNodes": MOST, "behavior": BEHAVIOR,
                                "keda": {"pollingInterval": 5, "triggers": [trigger]}})
        eventually("KEDA's autoscaler works", lambda: autoscaler(mail, "keda-hpa-mail"), 120, every=1)
        time.sleep(15)
        assert mail.found()["spec"]["nodes"] == LEAST, "there is no load to scale for"
        up_and_down(mail, traffic, report, lambda: setattr(traffic, "pause", HEAVY_PAUSE))
        # No autoscaling any more: KEDA's objects go, the number of nodes stays.
        mail.patch(autoscaling=None)
        eventually("the ScaledObject is gone", lambda: not mail.get("scaledobjects"), 60, every=0.5)
        eventually("its autoscaler is gone", lambda: not mail.get("hpa"), 60, every=0.5)
        assert mail.found()["spec"]["nodes"] == LEAST
    report(traffic.check())


def test_the_autoscaler_without_more_scales_with_cpu(metrics_server, loaded, report):
    # Little is requested, so that little is much.
    mail, traffic = loaded(nodes=LEAST, resources={"requests": {"cpu": "40m", "memory": "64Mi"}})
    traffic.pause = LIGHT_PAUSE
    with traffic.running():
        def used():
            pods = mail.kubernetes.kubectl("top", "pods", "-n", mail.namespace, "--no-headers").split("\n")
            found = [int(line.split()[1].removesuffix("m")) for line in pods if line]
            assert len(found) == LEAST, found
            return sum(found) / LEAST
        eventually("metrics-server knows the pods", used, 120, every=2)
        # At rest they must stay below 70 % of the request, or there is nothing to see.
        time.sleep(25)
        request = math.ceil(used() * 2)
        mail.patch(resources={"requests": {"cpu": f"{request}m", "memory": "64Mi"}})
        mail.wait_settled(600, nodes=LEAST)
        time.sleep(45)
        mail.patch(autoscaling={"minNodes": LEAST, "maxNodes": MOST, "behavior": BEHAVIOR})
        eventually("the autoscaler works", lambda: autoscaler(mail, "mail"), 180, every=1)
        report(f"{used():.0f} millicores a node with little load, {request} requested")
        up_and_down(mail, traffic, report, lambda: setattr(traffic, "pause", 0))
    report(traffic.check())


def test_the_autoscaler_scales_with_writes_that_wait_by_the_custom_metrics_api(adapter, prometheus, loaded, report):
    mail, traffic = loaded(nodes=LEAST)
    prometheus.scrape(mail)
    waiting = f'sum(avg_over_time(prickle_log_queue{{namespace="{mail.namespace}",service="mail-nodes"}}{MEAN}))'
    traffic.pause = 0
    with traffic.running():
        time.sleep(60)
        much = prometheus.number(waiting)
        report(f"{much:.3f} writes wait for the disks of {LEAST} nodes under load")
        # The sample's metric; what is much, this computer's disk decides.
        sample = yaml.safe_load((images.ROOT / "manifests/samples/autoscaling-metrics.yaml").read_text())
        metric = next(metric for metric in sample["spec"]["autoscaling"]["metrics"] if metric["type"] == "Pods")
        threshold = much / (2 * MOST)
        metric["pods"]["target"]["averageValue"] = f"{math.ceil(threshold * 1000)}m"
        traffic.pause = LIGHT_PAUSE
        eventually("there is little load", lambda: prometheus.number(waiting) < threshold * LEAST / 2, 120, every=1)
        mail.patch(autoscaling={"minNodes": LEAST, "maxNodes": MOST, "behavior": BEHAVIOR, "metrics": [metric]})
        eventually("the autoscaler works", lambda: autoscaler(mail, "mail"), 120, every=1)
        up_and_down(mail, traffic, report, lambda: setattr(traffic, "pause", 0))
    report(traffic.check())


def test_prometheus_accepts_our_alerts_and_none_fires(prometheus, operator, mail, report):
    operator.apply(_rule_kind())
    cluster = mail(nodes=3, monitoring={"prometheusRule": True})
    prometheus.scrape(cluster)
    rule = eventually("the PrometheusRule is there", lambda: cluster.get("prometheusrules", "mail"), 120, every=1)
    groups = rule["spec"]["groups"]
    expected = {alert["alert"] for group in groups for alert in group["rules"]}
    # What they are about is there, or they could never fire.
    job = f'job="prickle",namespace="{cluster.namespace}",service="mail-nodes"'

    def scraped():
        for metric in ("up", "prickle_delivery_failures_total", "prickle_pending_updates", "prickle_log_corrupt_records_total",
                       "prickle_log_quarantine_timestamp_seconds", "prickle_view_epoch", "prickle_disk_used_ratio"):
            assert len(prometheus.query(f"{metric}{{{job}}}")) == 3, metric
        return True
    eventually("all metrics of all pods are there", scraped, 60, every=1)

    def evaluated():
        found = prometheus.rules()
        assert set(found) == expected and all(health == "ok" for health, _ in found.values()), found
        return True
    # Of this MailCluster, and of all where there is no Prometheus operator.
    for rules in (groups, yaml.safe_load((images.ROOT / "manifests/monitoring/rules.yaml").read_text())["groups"]):
        prometheus.load_rules(rules)
        eventually("all are evaluated", evaluated, 60, every=1)
        assert {state for _, state in prometheus.rules().values()} == {"inactive"}, prometheus.rules()
    report(f"{len(expected)} alerts accepted and evaluated by Prometheus")


def test_every_query_of_the_dashboard_shows_something(prometheus, loaded, report):
    mail, traffic = loaded(nodes=3)
    prometheus.scrape(mail)
    dashboard = json.loads((images.ROOT / "manifests/monitoring/dashboard.json").read_text())

    def chosen(query):
        """As Grafana asks once a person has chosen a cluster."""
        return query.replace("$namespace", mail.namespace).replace("$cluster", mail.name)

    def shown(query):
        found = prometheus.query(query)
        assert found and not all(math.isnan(value) for _, value in found), f"{query}: {found}"
        return found
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    with traffic.running():
        for query in queries:
            eventually(f"{query} shows something", lambda query=chosen(query): shown(query), 60, every=1)
        # What a person chooses from.
        variables = [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
        for variable, expected in zip(variables, (mail.namespace, "mail-nodes"), strict=True):
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", chosen(variable["query"])).groups()
            assert expected in {labels[label] for labels, _ in shown(series)}, variable
    with pytest.raises(AssertionError):
        shown(chosen(queries[0]).replace("prickle_delivered_total", "prickle_no_such_metric"))
    report(f"{len(queries)} queries of the dashboard answered by Prometheus")


def _rule_kind():
    """The kind as the Prometheus operator has it, without its schema."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "prometheusrules.monitoring.coreos.com"},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced",
                 "names": {"plural": "prometheusrules", "singular": "prometheusrule", "kind": "PrometheusRule"},
                 "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                     "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]},
    }
