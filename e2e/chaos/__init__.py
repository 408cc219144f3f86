"""Chaos: real nodes, each in a network of its own, that are killed, frozen, cut off and robbed of their disks under mixed load.

| module | what it has |
| --- | --- |
| `network` | a namespace for each node on one bridge, and ways to cut them off |
| `plan` | what happens when, by a seed; the limits of what may be asked of a cluster |
| `faults` | does it, and undoes it |
| `promises` | what clients were promised and shown, and what breaks a promise |
| `load` | the clients |
| `judge` | reads everything through a node and compares |
"""
