#!/bin/sh
# Builds the kube-apiserver and etcd that the operator's integration test runs against, from the Go module
# proxy. They are cached outside the checkout by version: a second run only prints where they are.
#
#   build.sh            builds what is missing, prints the directory
#   PRICKLE_CACHE=dir   cache directory (default: ${XDG_CACHE_HOME:-$HOME/.cache}/prickle)
set -eu

kubernetes=1.34.4
etcd=3.6.8

cache=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}
out=$cache/apiserver-$kubernetes-etcd-$etcd
mkdir -p "$out"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOFLAGS=-mod=mod GOWORK=off CGO_ENABLED=0 GOTOOLCHAIN="${GOTOOLCHAIN:-auto}"

if [ ! -x "$out/etcd" ]; then
    mkdir "$work/etcd" && cd "$work/etcd"
    printf 'module build\n\ngo 1.24\n\nrequire go.etcd.io/etcd/server/v3 v%s\n' "$etcd" >go.mod
    go build -trimpath -gcflags=all=-dwarf=false -ldflags '-s -w' -o "$work/etcd.new" go.etcd.io/etcd/server/v3
    mv "$work/etcd.new" "$out/etcd"
fi >&2

if [ ! -x "$out/kube-apiserver" ]; then
    mkdir "$work/kubernetes" && cd "$work/kubernetes"
    # The staging modules, which k8s.io/kubernetes requires at v0.0.0, are published as v0.MINOR.PATCH.
    module=$(GOFLAGS= go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
    {
        printf 'module build\n\n'
        grep '^go ' "$module"
        printf '\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$kubernetes"
        sed -n 's/^[[:space:]]*\(k8s\.io\/[a-z-]*\) v0\.0\.0\( .*\)*$/\1/p' "$module" | sort -u |
            while read -r staging; do printf '\t%s => %s v0.%s\n' "$staging" "$staging" "${kubernetes#1.}"; done
        printf ')\n'
    } >go.mod
    go build -trimpath -gcflags=all=-dwarf=false \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$kubernetes" \
        -o "$work/kube-apiserver.new" k8s.io/kubernetes/cmd/kube-apiserver
    mv "$work/kube-apiserver.new" "$out/kube-apiserver"
fi >&2

echo "$out"
