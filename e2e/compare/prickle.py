"""Clusters of `mailnode serve` processes for the comparison: the harness of the tests (../cluster.py), with many users
that have one password."""

from concurrent.futures import ThreadPoolExecutor

from cluster import Cluster
from wait import eventually


class Prickle:
    def __init__(self, directory, password, users, count, factor):
        self.name = f"Prickle, {count} node{'s' if count > 1 else ''}, R={factor}"
        self.cluster = Cluster(directory, count=count, factor=factor)
        self.ca = self.cluster.ca
        try:
            self.cluster.start()
            # The user database may still be settling.
            eventually("the domain is made", lambda: self.cluster.add_domain() is None, 30)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: self._add_user(number, password), range(1, users + 1)))
        except BaseException:
            self.close()
            raise

    def _add_user(self, number, password):
        nodes = self.cluster.nodes
        body = {"address": f"user{number}@{Cluster.domain}", "password": password}

        def made():
            status, text = nodes[number % len(nodes)].http("POST", "/v1/users", body)
            assert status in (201, 409), text
            return True
        eventually(f"user {number} is made", made, 30)

    def arguments(self):
        out = ["--imap-ca", self.ca]
        for node in self.cluster.nodes:
            out += ["--target", f"127.0.0.1:{node.ports['lmtp']}", "--imap", f"127.0.0.1:{node.ports['imaps']}"]
            out += ["--pid", node.process.pid, "--metrics", f"{node.url}/metrics"]
        return out

    def close(self):
        self.cluster.close()
