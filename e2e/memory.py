"""What a stolen machine would show: the bytes of all files of a cluster's nodes, and of the memory of their processes."""

import re
from pathlib import Path

CHUNK = 16 * 1024 * 1024


def on_disk(cluster, secrets):
    """{name: files that have the secret in the clear}, over the data of all nodes and their logs."""
    found = {}
    files = [path for path in (cluster.directory / "data").rglob("*") if path.is_file()]
    files += cluster.directory.glob("*.log")
    assert sum(path.stat().st_size for path in files) > 1_000
    for path in files:
        data = path.read_bytes()
        for name, secret in secrets.items():
            if secret in data:
                found.setdefault(name, []).append(path.name)
    return found


def in_memory(node, secrets):
    """{name: how often} of secrets in what the node's process can write to: heap, stacks, buffers."""
    found = {}
    overlap = max(len(secret) for secret in secrets.values()) - 1
    process = Path(f"/proc/{node.process.pid}")
    with open(process / "mem", "rb", buffering=0) as memory:
        for line in (process / "maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match is None or "[vvar" in line:
                continue
            at, end = int(match[1], 16), int(match[2], 16)
            rest = b""
            while at < end:
                try:
                    memory.seek(at)
                    data = memory.read(min(CHUNK, end - at))
                except OSError:
                    break  # gone meanwhile, or not to be read
                if not data:
                    break
                at += len(data)
                data = rest + data
                for name, secret in secrets.items():
                    count = data.count(secret)
                    if count:
                        found[name] = found.get(name, 0) + count
                rest = data[-overlap:] if overlap else b""
    return found
