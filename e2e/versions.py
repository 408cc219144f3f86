"""The older `mailnode` that has to work beside this one, built from its commit once and kept by the commit's id.

    python3 versions.py build     builds it if it is not there (unoptimised, 3 minutes), prints
                                  where it is; says so and goes on if this checkout does not have the commit

It is kept outside of the checkout, in PRICKLE_CACHE (default: ${XDG_CACHE_HOME:-$HOME/.cache}/prickle).

`compatible-since` names that commit: the newest one that changed what nodes say to each other or write to disk in a way that
older ones do not understand. Whoever makes such a change writes the commit after it there, and says in docs/operations.md that
the whole cluster has to be stopped for that upgrade. Nothing else changes the file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("PRICKLE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prickle")


def commit():
    return (Path(__file__).parent / "compatible-since").read_text().split()[0]


def binary():
    """Where it is, or would be."""
    return Path(os.environ.get("PRICKLE_OLD_MAILNODE", CACHE / "versions" / commit() / "mailnode"))


def build():
    wanted = binary()
    if wanted.exists():
        return wanted
    known = subprocess.run(["git", "-C", ROOT, "cat-file", "-e", commit()], capture_output=True)
    if known.returncode != 0:
        return f"no commit {commit()[:12]} in this checkout, so no older mailnode: {known.stderr.decode().strip()}"
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        _run("git", "-C", ROOT, "worktree", "add", "--detach", source, commit())
        try:
            # Not in this checkout's own: cargo would take one for the other, as files are named by their place in the workspace.
            target = Path(directory) / "target"
            environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
            _run("cargo", "build", "--locked", "-p", "mailnode", cwd=source, env=environment)
            wanted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target / "debug" / "mailnode", wanted.with_suffix(".new"))
            wanted.with_suffix(".new").rename(wanted)
        finally:
            _run("git", "-C", ROOT, "worktree", "remove", "--force", source)
    return wanted


def _run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, timeout=1800, stdout=sys.stderr, **options)


if __name__ == "__main__":
    if sys.argv[1:] != ["build"]:
        sys.exit(__doc__)
    print(build())
