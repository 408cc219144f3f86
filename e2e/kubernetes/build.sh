#!/bin/bash
# A whole Kubernetes from the Go module proxy, and what it needs from Debian (as root): control plane, kubelet,
# kube-proxy, kubectl, etcd, CoreDNS, helm, the sandbox's pause program; containerd, runc and CNI plugins. Programs are
# cached outside the checkout by version: a second run only prints where they are.
#
#   build.sh            builds what is missing, prints the directory
#   build.sh --missing  builds nothing, prints what is missing
#   PRICKLE_CACHE=dir   cache directory (default: ${XDG_CACHE_HOME:-$HOME/.cache}/prickle)
set -euo pipefail

kubernetes=1.34.4
etcd=3.6.8
coredns=1.13.1
helm=3.21.4

here=$(dirname "$(readlink -f "$0")")
export PRICKLE_CACHE=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}
out=$PRICKLE_CACHE/kubernetes-$kubernetes-etcd-$etcd-coredns-$coredns-helm-$helm
built() { for name; do [[ -x $out/$name ]] || return 1; done; }
if [[ ${1:-} == --missing ]]; then
    for name in kube-{apiserver,controller-manager,scheduler,proxy} kubelet kubectl etcd coredns helm pause; do built "$name" || echo "$name"; done
    exit
fi
mkdir -p "$out"
exec 3>&1 1>&2
# Tests that run side by side ask at the same time.
exec 4>"$out/lock"
flock 4

packages=(containerd runc containernetworking-plugins nftables iptables conntrack iproute2 openssl curl swaks procps)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
    echo "installing ${missing[*]}"
    # Another apt may be at work, as on a machine that was just started.
    apt-get -o DPkg::Lock::Timeout=300 update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOWORK=off CGO_ENABLED=0 GOTOOLCHAIN="${GOTOOLCHAIN:-auto}"
# What debuggers read is not made, rather than stripped: a fifth less time and cache. As operator/tests/apiserver/build.sh, with which
# most packages are shared.
build=(-trimpath '-gcflags=all=-dwarf=false')

# kube-apiserver and etcd are those of the operator's test.
if ! built kube-apiserver etcd; then
    apiserver=$("$here/../../operator/tests/apiserver/build.sh")
    [[ $apiserver == *"$kubernetes-etcd-$etcd" ]] || { echo "$apiserver has other versions than this script"; exit 1; }
    ln -sf "$apiserver/kube-apiserver" "$apiserver/etcd" "$out/"
fi

commands=(kube-controller-manager kube-scheduler kube-proxy kubelet kubectl)
if ! built "${commands[@]}"; then
    mkdir "$work/kubernetes" "$work/bin"
    cd "$work/kubernetes"
    # The staging modules, which k8s.io/kubernetes requires at v0.0.0, are published as v0.MINOR.PATCH.
    module=$(go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
    {
        printf 'module build\n\n'
        grep '^go ' "$module"
        printf '\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$kubernetes"
        sed -n 's/^[[:space:]]*\(k8s\.io\/[a-z-]*\) v0\.0\.0\( .*\)*$/\1/p' "$module" | sort -u |
            while read -r staging; do printf '\t%s => %s v0.%s\n' "$staging" "$staging" "${kubernetes#1.}"; done
        printf ')\n'
    } >go.mod
    GOFLAGS=-mod=mod go build "${build[@]}" \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$kubernetes" \
        -o "$work/bin/" "${commands[@]/#/k8s.io/kubernetes/cmd/}"
    mv "$work"/bin/* "$out/"
fi

if ! built coredns; then
    GOBIN=$work/coredns go install "${build[@]}" -ldflags '-s -w' "github.com/coredns/coredns@v$coredns"
    mv "$work/coredns/coredns" "$out/"
fi

if ! built helm; then
    # That of operator/tests/chart.sh, if it is there.
    known=$PRICKLE_CACHE/helm-$helm
    [[ -x $known/helm ]] || GOBIN=$known go install "${build[@]}" -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@v$helm"
    ln -sf "$known/helm" "$out/"
fi

if ! built pause; then
    (cd "$here/pause" && go build -trimpath -ldflags '-s -w' -o "$work/pause" .)
    mv "$work/pause" "$out/"
fi

echo "$out" >&3
