#!/bin/bash
# Everything that the repository gives to Kubernetes, against the schemas of its kinds, strictly: golden renders of the operator and of
# the chart, manifests, samples. kubeconform and the schemas are from the Go module proxy, cached outside the checkout by version.
#
#   kubeconform.sh PYTHON     a Python with PyYAML
set -euo pipefail

kubeconform=0.8.0
kubernetes=1.34.4
cert_manager=1.21.2
keda=2.18.1
prometheus_operator=0.85.0
python=${1:-python3}

here=$(dirname "$(readlink -f "$0")")
root=$here/../..
cache=${PRICKLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prickle}
bin=$cache/kubeconform-$kubeconform
[[ -x $bin/kubeconform ]] || GOBIN=$bin go install -trimpath -ldflags '-s -w' "github.com/yannh/kubeconform/cmd/kubeconform@v$kubeconform"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
module() { GOFLAGS=-mod=mod GOWORK=off go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'; }

known=$(sha256sum "$here/schemas.py" "$root/crds/"*.yaml | sha256sum | cut -c1-16)
schemas=$cache/schemas-$kubernetes-$cert_manager-$keda-$prometheus_operator-$known
if [[ ! -d $schemas ]]; then
    "$python" "$here/schemas.py" "$work/schemas" \
        "$(module "k8s.io/kubernetes@v$kubernetes")/api/openapi-spec/swagger.json" \
        "$root/crds/mailclusters.prickle.email.yaml" \
        "$(module "github.com/cert-manager/cert-manager@v$cert_manager")"/deploy/crds/cert-manager.io_{certificates,issuers,clusterissuers}.yaml \
        "$(module "github.com/kedacore/keda/v2@v$keda")/config/crd/bases/keda.sh_scaledobjects.yaml" \
        "$(module "github.com/prometheus-operator/prometheus-operator@v$prometheus_operator")"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml
    mkdir -p "$cache"
    mv "$work/schemas" "$schemas"
fi

check() {
    # Its operator's module has no CRD.
    "$bin/kubeconform" -strict -summary -skip TidbCluster -schema-location "$schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"
}
cd "$root"
check operator/tests/golden/*.yaml operator/tests/golden/chart/*.yaml manifests/samples/*.yaml \
    manifests/operator/*.yaml manifests/crd.yaml

# That it refuses something: a field that is none, and a kind's field of the wrong type.
for bad in 's/clusterIP: None/clusterIp: None/' 's/replicas: 3/replicas: three/'; do
    sed "$bad" operator/tests/golden/smallest.yaml >"$work/bad.yaml"
    if check "$work/bad.yaml" >/dev/null; then echo "not refused: $bad" >&2; exit 1; fi
done
echo "kubeconform: good"
