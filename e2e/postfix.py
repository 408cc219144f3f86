"""Debian's Postfix as somebody else's mail server: an instance with its own configuration, queue and mailboxes, in a
network namespace, on port 25. Any local part that begins with `inbox` exists, and its mail lies in one Maildir."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from process import Process
from wait import eventually

_MASTER = """
smtp inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
flush unix n - n 1000? 0 flush
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    def __init__(self, name, domains, network, index):
        self.name = name
        self.address = network.addresses[index]
        # Not below pytest's own, which other users may not enter, and Postfix's are some.
        self.directory = Path(tempfile.mkdtemp(prefix=f"postfix-{name}-"))
        self.process = None
        self._network = network
        self._index = index
        for part in ("etc", "queue", "data", "mail"):
            (self.directory / part).mkdir()
        self.directory.chmod(0o755)
        owner = pwd.getpwnam("postfix")
        os.chown(self.directory / "data", owner.pw_uid, owner.pw_gid)
        nobody = pwd.getpwnam("nobody")
        os.chown(self.directory / "mail", nobody.pw_uid, nobody.pw_gid)
        (self.directory / "etc/mailboxes").write_text("/^inbox[^@]*@/ inbox/\n")
        (self.directory / "etc/master.cf").write_text(_MASTER)
        main = f"""
            compatibility_level = 3.6
            queue_directory = {self.directory}/queue
            data_directory = {self.directory}/data
            maillog_file = {self.directory}/postfix.log
            maillog_file_prefixes = {self.directory}
            myhostname = {name}
            mydestination =
            mynetworks =
            alias_maps =
            alias_database =
            inet_interfaces = {self.address}
            inet_protocols = ipv4
            virtual_mailbox_domains = {" ".join(domains)}
            virtual_mailbox_base = {self.directory}/mail
            virtual_mailbox_maps = regexp:{self.directory}/etc/mailboxes
            virtual_alias_maps =
            virtual_uid_maps = static:{nobody.pw_uid}
            virtual_gid_maps = static:{nobody.pw_gid}
            smtpd_client_connection_count_limit = 0
            smtpd_client_connection_rate_limit = 0
            smtpd_relay_restrictions = reject_unauth_destination
            smtpd_helo_required = yes
        """
        (self.directory / "etc/main.cf").write_text("\n".join(line.strip() for line in main.splitlines()) + "\n")

    def use_tls(self, chain, protocols=">=TLSv1"):
        """Offer STARTTLS with this key and certificate, and these protocols."""
        path = self.directory / "etc/chain.pem"
        path.write_text(chain)
        with (self.directory / "etc/main.cf").open("a") as main:
            main.write(
                f"smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {path}\nsmtpd_tls_received_header = yes\n"
                f"smtpd_tls_protocols = {protocols}\n"
            )

    def start(self):
        command = [*self._network.command(self._index), "postfix", "-c", self.directory / "etc", "start-fg"]
        self.process = Process(self.name, command, self.directory / "process.log")
        listening = ["ip", "netns", "exec", self._network.namespace(self._index), "ss", "-Hltn", "sport", "=", ":25"]

        def ready():
            assert self.process.is_running, self.log()
            return subprocess.run(listening, capture_output=True, text=True, timeout=10).stdout.strip()
        eventually(f"{self.name} listens", ready, 30)
        return self

    def stop(self):
        if self.process is not None and self.process.is_running:
            stop = [*self._network.command(self._index), "postfix", "-c", self.directory / "etc", "stop"]
            subprocess.run([str(part) for part in stop], capture_output=True, timeout=30)
            self.process.end()

    def remove(self):
        self.stop()
        shutil.rmtree(self.directory)

    def log(self):
        path = self.directory / "postfix.log"
        return path.read_text(errors="replace") if path.exists() else self.process.tail()

    def files(self):
        """Of the messages that arrived."""
        new = self.directory / "mail/inbox/new"
        return list(new.iterdir()) if new.exists() else []

    def messages(self):
        """All that arrived, as sent to Postfix: behind the lines that it put before them, with CRLF."""
        return [received(path.read_bytes()) for path in self.files()]


def received(data):
    """A message in a Maildir has Return-Path, Delivered-To and a Received line of Postfix before it."""
    head = re.match(rb"Return-Path: [^\n]*\n(?:[XD][^\n]*\n)*Received: from [^\n]*\n(?:[ \t][^\n]*\n)*", data)
    assert head, data[:500]
    return data[head.end():].replace(b"\n", b"\r\n")
