#!/bin/bash
# What autoscaling needs beside Kubernetes: KEDA (its operator, its metrics adapter and its manifests) from the Go module proxy,
# Prometheus from Debian. Cached outside the checkout by version like build.sh's; only the scenarios of test_autoscaling.py pay
# for it, and for the two that few of them need.
#
#   build-autoscaling.sh                        builds what is missing, prints the directory
#   build-autoscaling.sh metrics-server         that, too (from the Go module proxy)
#   build-autoscaling.sh prometheus-adapter     that, too (from the Go module proxy)
set -euo pipefail

keda=2.18.1
metrics_server=0.8.0
adapter=0.12.0

cache=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}
out=$cache/keda-$keda-metrics-server-$metrics_server
mkdir -p "$out"
exec 3>&1 1>&2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOWORK=off CGO_ENABLED=0 GOTOOLCHAIN="${GOTOOLCHAIN:-auto}"

field() { sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" <<<"$said"; }
# build MODULE VERSION COMMAND...: in a module of our own with the requirements and replacements of that one (`go install` refuses
# replacements, and asks for the list of all versions); the programs are in $work. Leaves what `go mod download` said.
build() {
    local module=$1 version=$2 command
    said=$(go mod download -json "$module@v$version")
    mkdir "$work/module"
    {
        printf 'module build\n'
        grep -v '^module ' "$(field GoMod)"
        printf '\nrequire %s v%s\n' "$module" "$version"
    } >"$work/module/go.mod"
    install -m 644 "$(field Dir)/go.sum" "$work/module/go.sum"
    for command in "${@:3}"; do
        (cd "$work/module" && GOFLAGS=-mod=mod go build -trimpath -ldflags "-s -w -X=$module/version.Version=$version" -o "$work/$command" "$module/cmd/$command")
    done
    rm -r "$work/module"
}

if ! [[ -x $out/keda && -x $out/keda-adapter && -d $out/manifests ]]; then
    build github.com/kedacore/keda/v2 "$keda" operator adapter
    rm -rf "$out/manifests"
    cp -r --no-preserve=mode "$(field Dir)/config" "$out/manifests"
    mv "$work/operator" "$out/keda"
    mv "$work/adapter" "$out/keda-adapter"
fi

if [[ ${1:-} == metrics-server && ! -x $out/metrics-server ]]; then
    GOBIN=$work/bin go install -trimpath -ldflags '-s -w' "sigs.k8s.io/metrics-server/cmd/metrics-server@v$metrics_server"
    mv "$work/bin/metrics-server" "$out/"
fi

if [[ ${1:-} == prometheus-adapter ]]; then
    if ! [[ -x $out/prometheus-adapter-$adapter ]]; then
        build sigs.k8s.io/prometheus-adapter "$adapter" adapter
        mv "$work/adapter" "$out/prometheus-adapter-$adapter"
    fi
    ln -sf "prometheus-adapter-$adapter" "$out/prometheus-adapter"
fi

# Unpacked, not installed: Debian's package would start a service.
if ! [[ -x $out/prometheus && -x $out/promtool ]]; then
    cd "$work"
    apt-get update -qq
    apt-get download -qq prometheus
    dpkg-deb --extract prometheus_*.deb unpacked
    mv unpacked/usr/bin/prometheus unpacked/usr/bin/promtool "$out/"
fi

echo "$out" >&3
