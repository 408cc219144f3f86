"""Debian's Dovecot as one process tree in a temporary directory: LMTP and IMAPS on loopback ports, sdbox,
`mail_fsync=always`, and any user with one password. Must run as root, because Dovecot changes users."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from ports import free_block
from process import Process
from wait import eventually

PACKAGES = ["dovecot-imapd", "dovecot-lmtpd"]

CONFIG = """
base_dir = {base}/run
state_dir = {base}/state
log_path = {base}/dovecot.log
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
protocols = imap lmtp
listen = 127.0.0.1
default_internal_user = dovecot
default_login_user = dovenull
first_valid_uid = 1
mail_location = sdbox:~/mail
mail_fsync = always
mail_max_userip_connections = 1000
postmaster_address = postmaster@example.org
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={base}/home/%u allow_all_users=yes
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
  process_min_avail = 2
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {imaps}
    ssl = yes
  }}
}}
"""

# As `openssl req` wants it: a CA cannot be a server's certificate, so there are two.
CA = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=CA"]
SERVER = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]


def install():
    """From Debian, if it is not there. Only the files: a service that the package starts is stopped again."""
    if shutil.which("dovecot"):
        return
    subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=600)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=600)
    if shutil.which("systemctl"):
        subprocess.run(["systemctl", "stop", "dovecot.service"], capture_output=True, timeout=60)


def version():
    return subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=True).stdout.split()[0]


class Dovecot:
    name = "Dovecot"

    def __init__(self, directory, password):
        self.directory = Path(directory)
        self.lmtp, self.imaps = free_block(2), free_block(1)
        # Dovecot's unprivileged processes have to reach their files through it.
        self.directory.mkdir(mode=0o755)
        self.directory.chmod(0o755)
        for name in ("run", "state", "home"):
            (self.directory / name).mkdir(mode=0o755)
        mail = pwd.getpwnam("nobody")
        os.chown(self.directory / "home", mail.pw_uid, mail.pw_gid)
        self.ca = self.directory / "ca.pem"
        self._certificates()
        config = CONFIG.format(
            base=self.directory, certificate=self.directory / "server.pem", key=self.directory / "server.key",
            password=password, uid=mail.pw_uid, gid=mail.pw_gid, lmtp=self.lmtp, imaps=self.imaps,
        )
        (self.directory / "dovecot.conf").write_text(config)
        self.process = Process("dovecot", ["dovecot", "-F", "-c", self.directory / "dovecot.conf"], self.directory / "start.log")
        try:
            eventually("Dovecot runs", self._is_up, 20)
        except BaseException:
            self.close()
            raise

    def _certificates(self):
        here = self.directory
        (here / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
        for arguments in (
            [*CA, "-keyout", here / "ca.key", "-out", self.ca],
            [*SERVER, "-keyout", here / "server.key", "-out", here / "server.csr"],
            ["x509", "-req", "-in", here / "server.csr", "-CA", self.ca, "-CAkey", here / "ca.key", "-CAcreateserial",
             "-days", "30", "-extfile", here / "san", "-out", here / "server.pem"],
        ):
            subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def _is_up(self):
        for port in (self.lmtp, self.imaps):
            socket.create_connection(("127.0.0.1", port), 1).close()
        return True

    def arguments(self):
        """What `mailnode bench` needs to know of it."""
        return [*self.targets(), "--imap", f"127.0.0.1:{self.imaps}", "--imap-ca", self.ca, "--pid", self.process.pid]

    def targets(self):
        return ["--target", f"127.0.0.1:{self.lmtp}"]

    def count_fsyncs(self, run):
        """Calls `run` while strace counts the flushes of all processes; None if strace is not there or not allowed.
        It slows the server down, so this run is not for speed."""
        if not shutil.which("strace"):
            return None
        out = self.directory / "strace"
        pids = [option for pid in _tree(self.process.pid) for option in ("-p", str(pid))]
        command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(out), *pids]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            if tracer.poll() is not None:
                return None
            run()
        finally:
            if tracer.poll() is None:
                tracer.send_signal(signal.SIGINT)
            tracer.wait(20)
        # A call that another one interrupts takes two lines; only the second has its result.
        return sum("sync" in line and line.endswith("= 0") for line in out.read_text().splitlines())

    def close(self):
        try:
            self.process.stop()
        finally:
            self.process.end()


def _tree(root):
    """A process and its descendants now."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(text.rsplit(")", 1)[1].split()[1])
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found
