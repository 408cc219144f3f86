"""JSON schemas for kubeconform, one a kind, from what projects publish in their Go modules: Kubernetes' OpenAPI document, and
CustomResourceDefinitions. Strict: a field that a kind does not have is an error, as for `kubectl apply` with its default validation.

    schemas.py OUT SWAGGER.json CRD.yaml...
"""

import copy
import json
import re
import sys
from pathlib import Path

import yaml

QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
REFERENCE = "#/definitions/"


def strict(schema):
    """Closes objects whose fields are known, and says what JSON Schema cannot know of Kubernetes' own words."""
    if isinstance(schema, list):
        for item in schema:
            strict(item)
    elif isinstance(schema, dict):
        # A schema of schemas has fields of these names, which are no words then.
        if schema.get("x-kubernetes-int-or-string") is True:
            schema.pop("type", None)
            schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        if isinstance(schema.get("format"), str):
            del schema["format"]
        for value in schema.values():
            strict(value)
        kept = schema.get("x-kubernetes-preserve-unknown-fields")
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not kept:
            schema.setdefault("additionalProperties", False)


def nullable(schema):
    """The API server takes a null for a field as its absence: that is how a default is turned off."""
    required = schema.get("required", [])
    for name, value in schema.get("properties", {}).items():
        nullable(value)
        if name not in required and isinstance(value.get("type"), str):
            value["type"] = [value["type"], "null"]


def with_metadata(schema, metadata):
    """A CRD says nothing of what all objects have."""
    properties = schema.setdefault("properties", {})
    properties |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": metadata}


def reachable(definitions, name, found):
    if name not in found:
        found[name] = definitions[name]
        for other in re.findall(f'"{REFERENCE}([^"]+)"', json.dumps(definitions[name])):
            reachable(definitions, other, found)
    return found


def write(out, kind, group, version, schema):
    # As kubeconform's {{.ResourceKind}}{{.KindSuffix}}.
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], version) if part)
    (out / f"{name}.json").write_text(json.dumps(schema))


def main(out, swagger, *crds):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    definitions = json.loads(Path(swagger).read_text())["definitions"]
    definitions[QUANTITY] = {"type": ["string", "number"]}
    definitions[INT_OR_STRING] = {"type": ["string", "integer"]}
    named = {name: copy.deepcopy(kind.get("x-kubernetes-group-version-kind", [])) for name, kind in definitions.items()}
    strict(definitions)
    count = 0
    for name, kinds in named.items():
        if len(kinds) == 1:
            kind = kinds[0]
            schema = {"$ref": REFERENCE + name, "definitions": reachable(definitions, name, {})}
            write(out, kind["kind"], kind["group"], kind["version"], schema)
            count += 1
    for path in crds:
        for crd in yaml.safe_load_all(Path(path).read_text()):
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
                strict(schema)
                nullable(schema)
                metadata = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
                with_metadata(schema, {"$ref": REFERENCE + metadata})
                schema["definitions"] = reachable(definitions, metadata, {})
                write(out, spec["names"]["kind"], spec["group"], version["name"], schema)
                count += 1
    print(f"{count} schemas")


if __name__ == "__main__":
    main(*sys.argv[1:])
