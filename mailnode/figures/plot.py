"""Draws the figures from their CSV files, as SVG and PNG. `make figures` runs it after the numbers were made.

Porcupine's figures stand beside ours only where somebody read them (the notes of MIT's courses 6.824 and 6.033, and reviews);
what is merely remembered of the paper is left out.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

# One run draws the same bytes as the next.
matplotlib.rcParams["svg.hashsalt"] = "prickle"
matplotlib.rcParams.update({
    "figure.dpi": 100, "font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "svg.fonttype": "none",
})
COLOURS = {1: "#1b6ca8", 2: "#d1495b"}
POLICIES = {
    "static": ("#777777", "o"), "random": ("#2e933c", "s"), "spread-1": ("#edae49", "^"), "spread-2": ("#d1495b", "D"),
    "spread-4": ("#1b6ca8", "v"),
}
# Porcupine, 30 machines without replication, messages a second (as read in 6.824's notes of 2006).
PORCUPINE_30 = 800


def rows(directory, name):
    with open(directory / f"{name}.csv", newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


def column(of, name):
    return [float(row[name]) for row in of]


def save(figure, directory, name):
    figure.tight_layout()
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        figure.savefig(directory / f"{name}.{kind}", metadata=metadata)
    plt.close(figure)
    print(directory / f"{name}.svg")


def copies_label(copies):
    return "one copy" if copies == 1 else f"{copies} copies"


def throughput(directory):
    data = rows(directory, "throughput")
    figure, (small, large) = plt.subplots(1, 2, figsize=(10, 4.2))
    for copies in (1, 2):
        of = [row for row in data if int(row["copies"]) == copies]
        nodes, rate = column(of, "nodes"), column(of, "messages_per_second")
        first = nodes.index(min(nodes))
        for axis, limit in ((small, 30), (large, max(nodes))):
            pairs = [(n, r) for n, r in zip(nodes, rate) if n <= limit]
            axis.plot(*zip(*pairs), "o-", color=COLOURS[copies], label=copies_label(copies), markersize=4)
            ideal = [(n, n * rate[first] / nodes[first]) for n in nodes if n <= limit]
            axis.plot(*zip(*ideal), "--", color=COLOURS[copies], linewidth=1, alpha=0.6)
    small.plot([], [], "--", color="#555555", linewidth=1, label="ideal: the smallest cluster, times")
    small.plot(30, PORCUPINE_30, "*", color="black", markersize=11, label="Porcupine, one copy (30 PCs of 1999)")
    large.set(xscale="log", yscale="log")
    for axis in (small, large):
        axis.set(xlabel="nodes", ylabel="messages acknowledged per second")
    small.set_ylim(bottom=0)
    small.legend(loc="upper left")
    figure.suptitle("Throughput by number of nodes (modelled machines, one magnetic disk each)")
    save(figure, directory, "throughput")


def skew(directory):
    data = rows(directory, "skew")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axis, copies in zip(axes, (1, 2)):
        for policy, (colour, marker) in POLICIES.items():
            of = [row for row in data if int(row["copies"]) == copies and row["policy"] == policy]
            if of:
                axis.plot(column(of, "skew"), column(of, "messages_per_second"), marker=marker, color=colour,
                          label=policy, markersize=5)
        axis.set(title=copies_label(copies), xlabel="skew of users (exponent of Zipf's law)", ylim=(0, None))
    axes[0].set_ylabel("messages acknowledged per second")
    axes[0].legend(loc="lower left")
    nodes = 30 if len({row["skew"] for row in data}) > 2 else 6
    figure.suptitle(f"Throughput of {nodes} nodes by skew of users and placement policy")
    save(figure, directory, "skew")


def fast_disks(directory):
    data = [row for row in rows(directory, "fast-disks")]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axis, copies in zip(axes, (1, 2)):
        of = [row for row in data if int(row["copies"]) == copies]
        names = list(dict.fromkeys(row["policy"] for row in of))
        without = [float(row["messages_per_second"]) for row in of if row["fast"] == "0"]
        faster = [row for row in of if row["fast"] != "0"]
        places = range(len(names))
        axis.bar([at - 0.2 for at in places], without, 0.4, color="#bbbbbb", label="30 equal nodes")
        bars = axis.bar([at + 0.2 for at in places], column(faster, "messages_per_second"), 0.4,
                        color=COLOURS[copies], label="3 of 30 with disks 4 times as fast")
        axis.bar_label(bars, [f"{float(row['gain_percent']):+.0f}%" for row in faster], padding=2)
        axis.set_xticks(list(places), names)
        axis.set_title(copies_label(copies))
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("messages acknowledged per second")
    axes[0].legend(loc="lower right")
    figure.suptitle("What fast disks in one node of ten give")
    save(figure, directory, "fast-disks")


def failures(directory):
    data = rows(directory, "failures")
    lines = defaultdict(list)
    for row in data:
        lines[int(row["copies"]), int(row["dead"])].append((int(row["second"]), float(row["delivered_per_second"])))
    figure, axes = plt.subplots(2, 1, figsize=(10, 6.4), sharex=True)
    # A run of `figures --quick` is shorter and smaller.
    full = max(int(row["second"]) for row in data) >= 600
    nodes, died, returned = (30, 300, 600) if full else (10, 20, 40)
    shades = {1: "#2e933c", 3: "#edae49", 6: "#d1495b"}
    for axis, copies in zip(axes, (1, 2)):
        for (of, dead), points in sorted(lines.items()):
            if of == copies:
                # The first seconds fill the disks' queues.
                points = [point for point in points[1:]]
                axis.plot(*zip(*points), color=shades.get(dead), label=f"{dead} of {nodes} nodes", linewidth=1.3)
        for time in (died, returned):
            axis.axvline(time, color="#555555", linewidth=0.8, linestyle=":")
        axis.set(ylabel="messages per second", title=copies_label(copies), ylim=(0, None))
    axes[0].legend(loc="lower left", title=f"die at {died} s, return at {returned} s")
    axes[1].set_xlabel("seconds")
    figure.suptitle("Throughput while machines die and return")
    save(figure, directory, "failures")


def detection(directory):
    data = rows(directory, "detection")
    figure, (times, costs) = plt.subplots(1, 2, figsize=(10, 4.2))
    for victim, style in (("other", "-"), ("coordinator", "--")):
        of = [row for row in data if row["victim"] == victim]
        nodes = column(of, "nodes")
        times.plot(nodes, column(of, "avoided_by_somebody_s"), style, marker="o", markersize=4, color="#2e933c",
                   label=f"avoided by those who probe it ({victim})")
        times.plot(nodes, column(of, "out_of_all_views_s"), style, marker="s", markersize=4, color="#1b6ca8",
                   label=f"out of all views, buckets reassigned ({victim})")
    of = [row for row in data if row["victim"] == "other"]
    times.plot(column(of, "nodes"), [float(ms) / 1e3 for ms in column(of, "mail_maps_known_after_view_ms")], ":",
               marker="^", markersize=4, color="#d1495b", label="then: mail maps of its users known again")
    times.set(xscale="log", ylabel="seconds", xlabel="nodes", title="Time")
    times.set_ylim(bottom=0, top=8)
    times.legend(loc="upper left", fontsize=8)
    nodes = column(of, "nodes")
    costs.plot(nodes, column(of, "reconstruction_calls_per_node"), "o-", markersize=4, color="#1b6ca8",
               label="calls per node")
    costs.plot(nodes, column(of, "reconstruction_calls_busiest"), "s--", markersize=4, color="#1b6ca8",
               label="calls of the busiest node")
    costs.plot(nodes, column(of, "reconstruction_users_listed_per_node"), "^-", markersize=4, color="#d1495b",
               label="users listed per node")
    costs.set(xscale="log", yscale="log", xlabel="nodes", title="Cost of reconstruction, 20,000 fragments a node")
    costs.legend(fontsize=8)
    figure.suptitle("A machine dies: detection, reassignment, reconstruction by size of the cluster")
    save(figure, directory, "detection")


def traffic(directory):
    data = rows(directory, "traffic")
    nodes = column(data, "nodes")
    figure, (service, peers) = plt.subplots(1, 2, figsize=(10, 4.2))
    service.plot(nodes, column(data, "lease_renewals_per_second"), "o-", label="Lease renewals", color="#1b6ca8")
    service.plot(nodes, column(data, "coordinator_writes_per_second"), "s-", label="coordinator's writes",
                 color="#2e933c")
    service.plot(nodes, column(data, "lease_events_to_watchers_per_second"), "^--",
                 label="events to all nodes' watches", color="#d1495b")
    service.set(xscale="log", yscale="log", xlabel="nodes", ylabel="per second, whole cluster", title="API server")
    service.legend()
    peers.plot(nodes, column(data, "probe_bytes_per_node_per_second"), "o-", label="probes, both directions",
               color="#1b6ca8")
    peers.plot(nodes, column(data, "load_report_bytes_per_node_per_second"), "s-",
               label="load reports (8 bytes on each message, full load)", color="#2e933c")
    peers.set(xscale="log", xlabel="nodes", ylabel="bytes per second and node", title="Between nodes", ylim=(0, None))
    peers.legend()
    figure.suptitle("What membership and load reports cost, by size of the cluster")
    save(figure, directory, "traffic")


def main():
    directory = Path(sys.argv[1])
    for name, draw in (("throughput", throughput), ("skew", skew), ("fast-disks", fast_disks), ("failures", failures),
                       ("detection", detection), ("traffic", traffic)):
        if (directory / f"{name}.csv").exists():
            draw(directory)


main()
