#!/bin/bash
# Who enforces NetworkPolicies: kube-router from the Go module proxy, of which only the firewall is used, and Debian's ipset, which it runs.
# Cached outside the checkout by version like build.sh's; only test_network_policy.py pays for it. Prints the program.
set -euo pipefail

version=2.1.0

out=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}/kube-router-$version
exec 3>&1 1>&2

if ! command -v ipset >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ipset >/dev/null
fi
if ! [[ -x $out/kube-router ]]; then
    GOWORK=off CGO_ENABLED=0 GOBIN=$out go install -trimpath -ldflags '-s -w' "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v$version"
fi

echo "$out/kube-router" >&3
