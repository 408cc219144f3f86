#!/bin/sh
# Builds the test server for TiKV from the Go module proxy. It is cached outside the checkout by the hash of its
# source and of its modules' versions: a second run only prints where it is.
#
#   build.sh            builds what is missing, prints the program
#   PRICKLE_CACHE=dir   cache directory (default: ${XDG_CACHE_HOME:-$HOME/.cache}/prickle)
set -eu

cd "$(dirname "$0")"
version=$(cat go.mod go.sum ./*.go | sha256sum | cut -c1-16)
cache=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}
program=$cache/tikv-test-server-$version
mkdir -p "$cache"

if [ ! -x "$program" ]; then
    GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 GOTOOLCHAIN="${GOTOOLCHAIN:-auto}" \
        go build -trimpath -ldflags '-s -w' -o "$program.new" .
    mv "$program.new" "$program"
fi >&2

echo "$program"
