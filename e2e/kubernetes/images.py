"""Images without a container engine: a docker-archive with one layer, in which one program is.

What the image says (user, entry point, environment, where the program is) is read from the last stage of the Dockerfile
that users build, so that the two cannot differ. The program is built here, static, as the first stage would; or, where time is
short, it is the unoptimised one that other tests need too, with the shared libraries that it asks for.
"""

import hashlib
import io
import json
import os
import shlex
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TRIPLE = f"{os.uname().machine}-unknown-linux-gnu"
#: Our two programs with few optimisations: a real release of `mailnode` takes longer than all scenarios. What they are made
#: of, where the time goes when they run, is as in the image for users.
QUICK = [
    f"--config=profile.release.package.{package}.{setting}"
    for package in ("mailnode", "operator") for setting in ("opt-level=1", "codegen-units=64", "debug=false")
]
#: How the Dockerfiles build: what rustc is told, each package's features and program.
RUSTFLAGS = "-C target-feature=+crt-static"
PACKAGES = {"mailnode": (("kubernetes", "tikv"), "mailnode"), "operator": ((), "prickle-operator")}


def first_stage(dockerfile):
    """Words of the command that builds, up to the first `&&` behind `cargo`."""
    lines = dockerfile.read_text().replace("\\\n", " ").splitlines()
    command = next(line for line in lines if line.startswith("RUN ") and "cargo build" in line)
    steps = [step.strip() for step in command.removeprefix("RUN ").split("&&")]
    return shlex.split(next(step for step in steps if "cargo build" in step))


def last_stage(dockerfile):
    """(COPY's destination, image configuration) of `FROM scratch`."""
    lines = [line for line in dockerfile.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    start = max(index for index, line in enumerate(lines) if line.startswith("FROM "))
    assert lines[start] == "FROM scratch", f"{dockerfile}: the last stage must begin with FROM scratch"
    config, destination = {"Env": []}, None
    for line in lines[start + 1:]:
        word, rest = line.split(None, 1)
        if word == "COPY":
            destination = shlex.split(rest)[-1]
        elif word == "USER":
            config["User"] = rest.strip()
        elif word == "ENV":
            config["Env"] += shlex.split(rest)
        elif word == "ENTRYPOINT":
            config["Entrypoint"] = json.loads(rest)
        elif word == "LABEL":
            config.setdefault("Labels", {}).update(pair.split("=", 1) for pair in shlex.split(rest))
        else:
            raise AssertionError(f"{dockerfile}: {word} is not understood here")
    assert destination, f"{dockerfile}: no COPY"
    return destination, config


def _features():
    return ",".join(f"{package}/{feature}" for package, (features, _) in PACKAGES.items() for feature in features)


def build_programs():
    """The static programs, `mailnode` and `prickle-operator`, by name. One build, so that what both need is compiled once."""
    packages = [word for package in PACKAGES for word in ("-p", package)]
    command = ["cargo", "build", "--release", "--locked", *QUICK, *packages, "--features", _features(), "--target", TRIPLE]
    environment = {**os.environ, "RUSTFLAGS": RUSTFLAGS, "CARGO_TARGET_DIR": str(TARGET)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=3600)
    return {name: TARGET / TRIPLE / "release" / name for name in ("mailnode", "prickle-operator")}


def build_unoptimised():
    """The same programs, unoptimised, linked as `cargo test` links: the build of all end-to-end tests (`make program`)."""
    command = ["cargo", "build", "--locked", "-p", "mailnode", "-p", "operator", "--features", _features()]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)}, check=True, timeout=3600)
    return {name: TARGET / "debug" / name for name in ("mailnode", "prickle-operator")}


def _libraries(program):
    """Paths of the shared libraries that a program asks for, and of the loader; none if it is static."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=30)
    return [Path(word) for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")]


def _layer(files):
    """`files`: path in the image -> content."""
    out, known = io.BytesIO(), set()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            for parent in list(Path(path).parents)[-2::-1]:
                if parent not in known:
                    known.add(parent)
                    entry = tarfile.TarInfo(str(parent).lstrip("/"))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            entry = tarfile.TarInfo(str(path).lstrip("/"))
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def archive(out, tags, program, destination, config):
    """Writes the archive; the same program under several tags is one image."""
    files = {destination: program.read_bytes()} | {library: library.read_bytes() for library in _libraries(program)}
    layer = _layer(files)
    digest = hashlib.sha256(layer).hexdigest()
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    image = json.dumps({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }).encode()
    name = hashlib.sha256(image).hexdigest()
    manifest = json.dumps([{"Config": f"{name}.json", "RepoTags": list(tags), "Layers": [f"{digest}.tar"]}]).encode()
    with tarfile.open(out, "w") as tar:
        for file, data in ((f"{name}.json", image), (f"{digest}.tar", layer), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out


def stripped(program, out):
    subprocess.run(["strip", "-o", str(out), str(program)], check=True)
    return out
