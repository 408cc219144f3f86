#!/bin/bash
# cert-manager's controllers (cert-manager/main.go) and its CustomResourceDefinitions, from the Go module proxy, cached outside the
# checkout by version. Prints the directory.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
version=$(sed -n 's/^require github.com\/cert-manager\/cert-manager v//p' "$here/cert-manager/go.mod")
out=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}/cert-manager-$version-$(sha256sum "$here/cert-manager/main.go" | cut -c1-12)
exec 3>&1 1>&2
if [[ ! -x $out/cert-manager ]]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cp "$here"/cert-manager/* "$work"
    cd "$work"
    export GOWORK=off CGO_ENABLED=0 GOFLAGS=-mod=mod
    go build -trimpath -ldflags '-s -w' -o "$work/cert-manager" .
    module=$(go mod download -json "github.com/cert-manager/cert-manager@v$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    mkdir -p "$out/crds"
    install -m 644 "$module"/deploy/crds/*.yaml "$out/crds/"
    mv "$work/cert-manager" "$out/"
fi
echo "$out" >&3
