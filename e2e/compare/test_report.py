"""The table says what the rounds were."""

import csv
import io

import report


def figures(rate, cpu=2.0, fsyncs=None):
    latency = {"p50_millis": 1.0, "p99_millis": 9.0, "max_millis": 10.0}
    delivery = {
        "connections": 32, "acknowledged": 4000, "seconds": 4000 / rate, "per_second": rate, "latency": latency,
        "server_cpu_seconds": cpu, "driver_cpu_seconds": 0.4, "fsyncs_per_thousand": fsyncs,
    }
    return {"deliveries": [delivery], "reads": []}


ROUNDS = [
    (1, "Dovecot", figures(1000)), (1, "Prickle", figures(2000, fsyncs=40.4)),
    (2, "Dovecot", figures(900)), (2, "Prickle", figures(9000, fsyncs=60.0)),
    (3, "Dovecot", figures(1100)), (3, "Prickle", figures(3000, fsyncs=50.0)),
]


def test_the_table_has_medians_their_range_and_the_ratio_to_dovecot():
    text = report.as_markdown(report.rows(ROUNDS), {"date": "today"})
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:]] for line in text.splitlines() if "| 32 |" in line}
    assert rows["Dovecot"][:3] == ["32", "1,000 (900 to 1,100)", "1.00"]
    assert rows["Prickle"][:3] == ["32", "3,000 (2,000 to 9,000)", "3.00"]
    assert rows["Dovecot"][5:8] == ["0.500", "0.100", "-"]
    assert rows["Prickle"][7] == "50"


def test_the_csv_has_every_round_with_empty_cells_for_what_was_not_measured():
    rows = list(csv.DictReader(io.StringIO(report.as_csv(report.rows(ROUNDS)))))
    assert [(row["round"], row["server"]) for row in rows] == [(str(number), server) for number, server, _ in ROUNDS]
    assert [row["fsyncs_per_1000"] for row in rows[:2]] == ["", "40"]


def test_without_dovecot_there_is_no_ratio():
    text = report.as_markdown(report.rows([ROUNDS[1]]), {})
    assert "| 2,000 (2,000 to 2,000) | - |" in text
