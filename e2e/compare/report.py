"""Medians over the rounds, ratios to Dovecot, as CSV and Markdown. Every round's figures are in the CSV."""

import csv
import io
import os
import platform
import statistics
from pathlib import Path

BASE = "Dovecot"


def rows(rounds):
    """One row for each round, server, phase and number of connections. `rounds`: [(round, server, report)]."""
    out = []
    for number, server, report in rounds:
        for phase, levels, latency in (("deliver", report["deliveries"], "latency"), ("read", report["reads"], "fetch")):
            for level in levels:
                messages = level.get("acknowledged", level.get("messages")) or 1
                cpu = level["server_cpu_seconds"]
                out.append({
                    "round": number,
                    "server": server,
                    "phase": phase,
                    "connections": level["connections"],
                    "messages": messages,
                    "seconds": round(level["seconds"], 3),
                    "per_second": round(level["per_second"], 1),
                    "p50_ms": round(level[latency]["p50_millis"], 2),
                    "p99_ms": round(level[latency]["p99_millis"], 2),
                    "log_in_p50_ms": round(level["log_in"]["p50_millis"], 1) if "log_in" in level else None,
                    "server_cpu_s_per_1000": None if cpu is None else round(cpu * 1000 / messages, 3),
                    "driver_cpu_s_per_1000": round(level["driver_cpu_seconds"] * 1000 / messages, 3),
                    "fsyncs_per_1000": _rounded(level.get("fsyncs_per_thousand")),
                })
    return out


def _rounded(value):
    return None if value is None else round(value)


def as_csv(all_rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(all_rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(all_rows)
    return out.getvalue()


def _summary(all_rows, phase):
    """{(server, connections): {column: median, 'least', 'most'}} in the order of the run."""
    groups = {}
    for row in all_rows:
        if row["phase"] == phase:
            groups.setdefault((row["server"], row["connections"]), []).append(row)
    out = {}
    for key, group in groups.items():
        median = {}
        for column in group[0]:
            values = [row[column] for row in group if isinstance(row[column], (int, float))]
            median[column] = statistics.median(values) if values else None
        rates = [row["per_second"] for row in group]
        out[key] = {**median, "least": min(rates), "most": max(rates)}
    return out


def as_markdown(all_rows, facts):
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    titles = {"deliver": "Deliveries (LMTP), acknowledged", "read": "IMAP sessions that read them, over TLS"}
    for phase, title in titles.items():
        summary = _summary(all_rows, phase)
        if not summary:
            continue
        extra = "fsyncs per 1,000" if phase == "deliver" else "log-in p50 ms"
        lines += [
            "",
            f"### {title}",
            "",
            f"| server | connections | messages/s (least to most) | x {BASE} | p50 ms | p99 ms | server CPU s per 1,000 | driver CPU s per 1,000 | {extra} |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for (server, connections), row in sorted(summary.items(), key=lambda item: item[0][1]):
            base = summary.get((BASE, connections))
            ratio = f"{row['per_second'] / base['per_second']:.2f}" if base else "-"
            last = row["fsyncs_per_1000"] if phase == "deliver" else row["log_in_p50_ms"]
            lines.append(
                f"| {server} | {connections} | {row['per_second']:,.0f} ({row['least']:,.0f} to {row['most']:,.0f}) | {ratio} "
                f"| {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {_cell(row['server_cpu_s_per_1000'], 3)} "
                f"| {_cell(row['driver_cpu_s_per_1000'], 3)} | {_cell(last, 0 if phase == 'deliver' else 1)} |"
            )
    return "\n".join(lines) + "\n"


def _cell(value, decimals):
    return "-" if value is None else f"{value:,.{decimals}f}"


def machine(directory):
    """What the figures depend on, without the names of this machine."""
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "machine": f"{os.cpu_count()} x {models[0] if models else platform.machine()}, Linux {platform.release()}, {_file_system(directory)}",
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "client and server": "on the same cores, over loopback; one server runs at a time",
    }


def _file_system(directory):
    """Type of the file system that holds the directory."""
    best, kind = "", "unknown"
    path = str(Path(directory).resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind
