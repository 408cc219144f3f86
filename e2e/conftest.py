"""Fixtures: a cluster of three nodes that most tests share, and the nodes' logs when a test fails."""

import pytest

import cluster as clusters
import process


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Three `mailnode serve`, R=2, with a domain. Tests make users of their own and leave all nodes running."""
    with clusters.started(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture
def user(cluster):
    return cluster.add_user()


@pytest.fixture
def report(request, record_property):
    """Prints a figure that belongs to the test's outcome; shown at the end of the run."""
    return lambda text: record_property("figure", f"{request.node.name}: {text}")


def pytest_collection_modifyitems(items):
    """Short tests first; the scenario of test_kill.py last."""
    items.sort(key=lambda item: (item.get_closest_marker("kill") is not None, "restart" in item.fspath.basename))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for log, started in {started.log: started for started in process.STARTED}.items():
            report.sections.append((f"end of {log}", started.tail()))


def pytest_terminal_summary(terminalreporter):
    # Of the reports, as tests may have run in processes of their own.
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    figures = [text for report in reports if report.when == "call" for name, text in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)


def pytest_unconfigure():
    for started in process.STARTED:
        started.end()
