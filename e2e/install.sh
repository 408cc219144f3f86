#!/bin/bash
# What the tests need beyond Rust, on a Debian machine as root: mail clients and test messages from Debian, Python tools into
# a virtual environment, crates whose test messages are used. Does nothing the second time. Argument: the directory for the
# virtual environment.
set -euo pipefail
tools=${1:?usage: install.sh DIRECTORY}
here=$(dirname "$(readlink -f "$0")")

packages=(curl iproute2 openssl postfix swaks libnet-ssleay-perl isync python3-venv)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
# CPython's test messages: the package's name has Debian's Python version in it, so look for the files.
messages() { compgen -G '/usr/lib/python3.*/test/test_email/data/msg_01.txt' >/dev/null; }

if ((${#missing[@]})) || ! messages; then
    apt-get update -qq
    # The oldest Debian that is supported decides nothing here: the metapackage knows the version.
    version=$(apt-cache depends python3 | sed -n 's/.*Depends: python\(3\.[0-9]*\)$/\1/p' | head -1)
    messages || missing+=("libpython${version}-testsuite")
    echo "installing ${missing[*]}"
    # The tests bring a configuration of their own, and nothing else on this machine wants a mail server.
    echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! cmp -s "$here/requirements.txt" "$tools/installed.txt"; then
    rm -rf "$tools"
    /usr/bin/python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/installed.txt"
fi

cargo fetch --quiet --locked --manifest-path "$here/corpus/Cargo.toml"
