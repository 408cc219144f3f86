#!/bin/sh
# The chart: `helm lint`, golden renders (operator/tests/golden/chart; PRICKLE_BLESS=1 rewrites them), and values that
# its schema must refuse. Builds helm from the Go module proxy, cached outside the checkout by version.
set -eu

helm=3.21.4
cache=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}
bin=$cache/helm-$helm/helm
[ -x "$bin" ] || GOBIN=$cache/helm-$helm go install -trimpath -gcflags=all=-dwarf=false -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@v$helm"

cd "$(dirname "$0")/../.."
chart=charts/prickle
golden=operator/tests/golden/chart
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

"$bin" lint --strict "$chart"

render() {
    name=$1
    shift
    "$bin" template prickle "$chart" --kube-version 1.34.4 --namespace prickle-system "$@" >"$out/$name.yaml"
    if [ -n "${PRICKLE_BLESS:-}" ]; then cp "$out/$name.yaml" "$golden/$name.yaml"; fi
    diff -u "$golden/$name.yaml" "$out/$name.yaml"
}
render default
render namespaced --set 'operator.namespaces={post,office}'
render cluster --set mailCluster.create=true --set mailCluster.spec.nodes=5

refused() {
    if "$bin" template prickle "$chart" --kube-version 1.34.4 "$@" >/dev/null 2>"$out/error"; then
        echo "not refused: $*" >&2
        exit 1
    fi
    grep -q 'values.schema.json\|specifications of the schema' "$out/error" || { cat "$out/error" >&2; exit 1; }
}
refused --set operator.replicas=0
refused --set operator.imagge=x
refused --set mailCluster.create=true --set mailCluster.name=Not.A.Name

echo "chart: good"
