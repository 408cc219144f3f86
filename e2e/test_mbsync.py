"""mbsync keeps a Maildir and an account level in both directions, and then finds nothing to do, through any node."""

import mailbox
import os
import pty
import re
import subprocess
import threading

import clients

MESSAGE = b"From: a@example.net\r\nDate: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%s@example.net>\r\nSubject: %s\r\n\r\nHello %s\r\n"


class Mbsync:
    def __init__(self, directory, user):
        self.directory, self.user = directory, user
        (directory / "mail").mkdir()

    def run(self, node):
        """One two-way sync through a node; what it printed."""
        config = self.directory / "mbsyncrc"
        config.write_text(
            f"""
IMAPAccount prickle
Host localhost
Port {node.ports['imaps']}
User {self.user.address}
Pass {self.user.password}
SSLType IMAPS
CertificateFile {node.ca}

IMAPStore far
Account prickle

MaildirStore near
SubFolders Verbatim
Path {self.directory}/mail/
Inbox {self.directory}/mail/INBOX

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Remove Both
Expunge Both
SyncState *
"""
        )
        # Its closing figures are for people only: it prints them if standard output is a terminal.
        terminal, output = pty.openpty()
        try:
            process = subprocess.Popen(
                ["mbsync", "--config", config, "--all"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            os.close(output)
            reader = threading.Thread(target=self._read, args=(terminal,), daemon=True)
            reader.start()
            assert process.wait(60) == 0, self.printed
            reader.join(5)
        finally:
            os.close(terminal)
        return self.printed

    def _read(self, terminal):
        self.printed = ""
        try:
            while chunk := os.read(terminal, 65536):
                self.printed += chunk.decode(errors="replace")
        except OSError:  # the other end is closed
            pass

    def folder(self, name):
        return mailbox.Maildir(self.directory / "mail" / name, create=True)


def changes(output):
    """mbsync's own closing figures: messages added, flagged, put in the trash, far and near."""
    last = re.findall(r"F: \+(\d+)/\d+ \*(\d+)/\d+ #(\d+)/\d+ +N: \+(\d+)/\d+ \*(\d+)/\d+ #(\d+)/\d+", output)
    assert last, output
    return [int(number) for number in last[-1]]


def subjects(client, folder):
    clients.ok(client.select(folder, readonly=True))
    return {
        re.search(rb"Subject: (.*?)\r?\n", body)[1].decode(): flags for flags, body in clients.fetch(client).values()
    }


def put(folder, text, flags=""):
    message = mailbox.MaildirMessage(MESSAGE.replace(b"\r\n", b"\n") % (text, text, text))
    if flags:
        message.set_subdir("cur")
        message.set_flags(flags)
    return folder.add(message)


def test_two_way_sync_with_folders_flags_and_new_mail_on_both_sides(cluster, user, tmp_path):
    first, second, third = cluster.nodes
    imap = clients.imap(first, user)
    clients.ok(imap.create("Work"))
    clients.append(imap, "INBOX", MESSAGE % (b"far1", b"far1", b"far1"), r"\Seen")
    clients.append(imap, "INBOX", MESSAGE % (b"far2", b"far2", b"far2"))
    clients.append(imap, "Work", MESSAGE % (b"far3", b"far3", b"far3"), r"\Flagged \Answered")

    sync = Mbsync(tmp_path, user)
    inbox = sync.folder("INBOX")
    put(inbox, b"near1", "S")
    put(sync.folder("Private"), b"near2", "F")
    sync.run(first)
    assert subjects(imap, "INBOX") == {"far1": {"\\Seen"}, "far2": frozenset(), "near1": {"\\Seen"}}
    assert subjects(imap, "Private") == {"near2": {"\\Flagged"}}
    assert sorted(message["Subject"] for message in inbox) == ["far1", "far2", "near1"]
    assert {message["Subject"]: message.get_flags() for message in sync.folder("Work")} == {"far3": "FR"}

    assert changes(sync.run(second)) == [0] * 6, "there was nothing to do"

    clients.ok(imap.select("INBOX"))
    [number] = clients.ok(imap.search(None, "SUBJECT", "far2"))[0].split()
    clients.ok(imap.store(number, "+FLAGS", r"(\Flagged)"))
    [number] = clients.ok(imap.search(None, "SUBJECT", "far1"))[0].split()
    clients.ok(imap.store(number, "+FLAGS", r"(\Deleted)"))
    clients.ok(imap.expunge())
    clients.append(imap, "INBOX", MESSAGE % (b"far4", b"far4", b"far4"))
    work = sync.folder("Work")
    [key] = work.keys()
    message = work[key]
    message.set_flags("FRS")
    work[key] = message
    [key] = [key for key, message in inbox.items() if message["Subject"] == "near1"]
    inbox.remove(key)
    put(inbox, b"near3")
    assert changes(sync.run(third)) == [1, 2, 0, 1, 2, 0]  # a deletion counts as a change of flags
    assert subjects(imap, "INBOX") == {"far2": {"\\Flagged"}, "far4": frozenset(), "near3": frozenset()}
    assert subjects(imap, "Work") == {"far3": {"\\Flagged", "\\Answered", "\\Seen"}}
    assert {message["Subject"]: message.get_flags() for message in sync.folder("INBOX")} == {
        "far2": "F", "far4": "", "near3": "",
    }
    assert changes(sync.run(first)) == [0] * 6, "there was nothing to do"
    imap.logout()
