"""Fixtures: one real Kubernetes for the session with the operator from the chart, a MailCluster of its own for each test, and
everything a person would look at in one folder when a test fails (PRICKLE_ARTIFACTS, default target/e2e-kubernetes).

With `-n 3` there are three processes with a Kubernetes each (`namespaces.LANE`), and each takes the next test when it is done with one."""

import contextlib
import json
import os
import re
import time
from pathlib import Path

import pytest

import images
import kubernetes_cluster
import namespaces
import process
from mail import IMAGE, NEWER, Mail
from traffic import Traffic

OPERATOR = "prickle/operator:0.1.0"
ARTIFACTS = Path(os.environ.get("PRICKLE_ARTIFACTS", images.TARGET / "e2e-kubernetes"))
#: Of the test that runs, until they are in its report.
_FIGURES = []


def pytest_addoption(parser):
    parser.addoption("--if-able", action="store_true", help="skip, with the reason, on a computer that cannot run a Kubernetes")
    parser.addoption("--repeat", type=int, default=1, help="each selected test so many times, for what shows only sometimes")
    parser.addoption("--unoptimised", action="store_true", help="our programs as the unit tests have them")


def pytest_generate_tests(metafunc):
    if (times := metafunc.config.getoption("--repeat")) > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(times))


def pytest_collection_modifyitems(items):
    """Where tests run side by side, the longest begin first, so that all end at about the same time."""
    if namespaces.LANES > 1:
        items.sort(key=lambda item: mark.args[0] if (mark := item.get_closest_marker("short")) else 0, reverse=True)


def make_images(unoptimised, directory):
    """Our programs, and archives of their images; at once, as others build where the programs are."""
    built = images.build_unoptimised() if unoptimised else images.build_programs()
    programs = {name: images.stripped(program, directory / name) for name, program in built.items()}
    made = []
    for package, name, tags in (("mailnode", "mailnode", (IMAGE, NEWER)), ("operator", "prickle-operator", (OPERATOR,))):
        destination, config = images.last_stage(images.ROOT / package / "Dockerfile")
        for tag in tags:
            # An image of its own for each tag, as another version would be.
            labelled = config | {"Labels": {"org.opencontainers.image.version": tag.split(":")[1]}}
            made.append(images.archive(directory / f"{tag.replace('/', '-')}.tar", [tag], programs[name], destination, labelled))
    return programs, made


@pytest.fixture(scope="session")
def kubernetes(request):
    if reason := kubernetes_cluster.why_not():
        no = pytest.skip if request.config.getoption("--if-able") else pytest.fail
        no(f"no Kubernetes on this computer: {reason}")
    cluster = kubernetes_cluster.Kubernetes(kubernetes_cluster.build())
    try:
        programs, made = make_images(request.config.getoption("--unoptimised"), cluster.directory)
        cluster.mailnode = programs["mailnode"]
        try:
            begun = time.monotonic()
            cluster.start()
            _FIGURES.append(f"three machines ready after {time.monotonic() - begun:.1f} s")
            for image in made:
                cluster.load(image)
            yield cluster
        except BaseException:
            with contextlib.suppress(Exception):
                cluster.save_state(ARTIFACTS / f"start-{namespaces.LANE}", "default")
            raise
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def operator(kubernetes):
    try:
        kubernetes.install_chart()
    except BaseException:
        kubernetes.save_state(ARTIFACTS / f"install-{namespaces.LANE}", "prickle-system")
        raise
    return kubernetes


@pytest.fixture
def mail(operator, request):
    """Makes MailClusters, each in a namespace of its own."""
    made = []

    def make(**spec):
        name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:30].strip("-")
        cluster = Mail(operator, f"{name}-{len(made)}")
        made.append(cluster)
        cluster.seconds_to_ready = cluster.create(**spec)
        return cluster
    yield make
    failed = getattr(request.node, "failed", False)
    for cluster in made:
        if failed:
            operator.save_state(ARTIFACTS / cluster.namespace, cluster.namespace)
        with contextlib.suppress(Exception):
            cluster.leave()


@pytest.fixture
def loaded(mail):
    """A MailCluster and load for it."""
    def make(**spec):
        cluster = mail(**spec)
        return cluster, Traffic(cluster)
    return make


@pytest.fixture
def report(request):
    """Prints a figure that belongs to the test's outcome; shown at the end of the run."""
    return lambda text: _FIGURES.append(f"{request.node.name}: {text}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.failed = True
    report.user_properties += [("figure", text) for text in _FIGURES]
    _FIGURES.clear()


def pytest_terminal_summary(terminalreporter):
    # Of the reports, as tests may have run in processes of their own.
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    figures = [text for report in reports for name, text in getattr(report, "user_properties", []) if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    (ARTIFACTS / "figures.json").write_text(json.dumps(figures, indent=1))


def pytest_unconfigure():
    for started in process.STARTED:
        started.end()
