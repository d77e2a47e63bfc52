"""Draws from a checkout of the Matrix specification what the tests hold answers against.

`client-server.json` and `server-server.json` beside this file list every operation of these APIs
with the schemas of its successful answers, `client-server-requests.json` with those of what is
asked, without descriptions and examples. They are written anew, when the specification has a new
version, by

    git clone https://github.com/matrix-org/matrix-spec CHECKOUT
    .venv/bin/python tests/openapi/extract.py CHECKOUT

The specification is under the Apache License 2.0, as Yizhan is; the files name their source and
what was changed, as section 4 of the licence asks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

JsonObject = dict[str, Any]

APIS = ("client-server", "server-server")
METHODS = ("get", "put", "post", "delete")

ASSERTIONS = frozenset(
    (
        "type", "required", "enum", "const", "pattern", "minimum", "maximum", "minProperties",
        "maxProperties", "minItems", "maxItems", "minLength", "maxLength",
    )
)  # fmt: skip
SUBSCHEMA = frozenset(("items", "additionalProperties", "unevaluatedProperties"))
SUBSCHEMAS_BY_NAME = frozenset(("properties", "patternProperties"))
SUBSCHEMA_LISTS = frozenset(("allOf", "anyOf", "oneOf"))
ANNOTATIONS = frozenset(
    ("$schema", "description", "title", "example", "examples", "default", "format", "deprecated")
)


class Extraction:
    """The schemas met so far, by the name of their file within `data`."""

    def __init__(self, checkout: Path, api: str) -> None:
        self._data = (checkout / "data").resolve()
        self._api = api
        self.schemas: dict[str, JsonObject] = {}

    def operations(self) -> list[JsonObject]:
        """Return every operation with its answers, in the order of the specification's files."""
        return [{**where, **self._operation(file, said)} for where, file, said in self._all()]

    def requests(self) -> list[JsonObject]:
        """Return every operation with its parameters and bodies, in the same order."""
        return [{**where, **self._request(file, said)} for where, file, said in self._all()]

    def _all(self) -> Iterator[tuple[JsonObject, Path, JsonObject]]:
        for file in sorted((self._data / "api" / self._api).glob("*.yaml")):
            document = yaml.safe_load(file.read_text("utf-8"))
            base = document["servers"][0]["variables"]["basePath"]["default"]
            for path, methods in document["paths"].items():
                for method in METHODS:
                    if method in methods:
                        where = {"method": method.upper(), "path": base + path.strip()}
                        said = methods[method]
                        yield {"id": said["operationId"], **where}, file, said

    def _request(self, file: Path, operation: JsonObject) -> JsonObject:
        parameters = []
        for named in operation.get("parameters", ()):
            place, parameter = self._resolved(file, named)
            parameters.append(
                {
                    "in": parameter["in"],
                    "name": parameter["name"],
                    "required": parameter.get("required", False),
                    "schema": self._schema(place, parameter.get("schema", {})),
                }
            )
        request: JsonObject = {"parameters": parameters}
        if "requestBody" in operation:
            place, body = self._resolved(file, operation["requestBody"])
            request["required"] = body.get("required", False)
            request["bodies"] = {
                kind: self._schema(place, said.get("schema", {}))
                for kind, said in body["content"].items()
            }
        return request

    def _resolved(self, file: Path, named: JsonObject) -> tuple[Path, JsonObject]:
        """Return a parameter or body that is perhaps kept elsewhere, and its file."""
        while "$ref" in named:
            place, _, pointer = named["$ref"].partition("#")
            file = (file.parent / place).resolve() if place else file
            named = yaml.safe_load(file.read_text("utf-8"))
            for step in pointer.split("/")[1:]:
                named = named[step]
        return file, named

    def _operation(self, file: Path, operation: JsonObject) -> JsonObject:
        answers = {}
        for status, response in operation["responses"].items():
            if status.startswith(("2", "3")):
                content = response.get("content", {})
                answers[status] = {
                    kind: self._schema(file, body.get("schema", {}))
                    for kind, body in content.items()
                }
        said: JsonObject = {"tag": (operation.get("tags") or [""])[0]}
        if operation.get("deprecated"):
            said["deprecated"] = True
        if since := operation.get("x-addedInMatrixVersion"):
            said["since"] = since
        return {**said, "answers": answers}

    def _schema(self, file: Path, schema: Any) -> Any:
        """Return a schema without its annotations; an unknown word is an error."""
        if not isinstance(schema, dict):
            return schema
        kept: JsonObject = {}
        for word, value in schema.items():
            if word in ASSERTIONS:
                kept[word] = value
            elif word in SUBSCHEMA:
                kept[word] = self._schema(file, value)
            elif word in SUBSCHEMAS_BY_NAME:
                kept[word] = {name: self._schema(file, part) for name, part in value.items()}
            elif word in SUBSCHEMA_LISTS:
                # Alternatives overlap: "an event" and "an object" stand side by side.
                kept["anyOf" if word == "oneOf" else word] = [
                    self._schema(file, part) for part in value
                ]
            elif word == "$ref":
                kept[word] = self._reference(file, value)
            elif word not in ANNOTATIONS and not word.startswith("x-"):
                raise ValueError(f"{file}: unknown word {word} in a schema")
        return kept

    def _reference(self, file: Path, reference: str) -> str:
        place, _, pointer = reference.partition("#")
        target = (file.parent / place).resolve() if place else file
        name = str(target.relative_to(self._data).with_suffix("")) + pointer
        if name not in self.schemas:
            self.schemas[name] = {}  # before its own references, which may lead back
            schema = yaml.safe_load(target.read_text("utf-8"))
            for step in pointer.split("/")[1:]:
                schema = schema[step]
            self.schemas[name] = self._schema(target, schema)
        return name


def main(checkout: Path) -> None:
    """Write the files anew."""
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, check=True, text=True
    ).stdout.strip()
    for api in APIS:
        answers = Extraction(checkout, api)
        what = "the schemas of successful answers"
        _write(api, answers.operations(), answers, f"data/api/{api}", what, commit)
    requests = Extraction(checkout, APIS[0])
    what = "the schemas of parameters and bodies"
    _write(
        f"{APIS[0]}-requests", requests.requests(), requests, f"data/api/{APIS[0]}", what, commit
    )


def _write(
    name: str,
    operations: list[JsonObject],
    extraction: Extraction,
    source: str,
    what: str,
    commit: str,
) -> None:
    head = {
        "source": f"{source} of github.com/matrix-org/matrix-spec at {commit}",
        "licence": "Apache-2.0; copyright The Matrix.org Foundation C.I.C. and the authors named "
        "in the source",
        "changes": f"Extracted by extract.py: operations with {what}, "
        "without descriptions, examples and formats; oneOf has become anyOf.",
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    lines += [' "operations": [', ",\n".join(f"  {_compact(item)}" for item in operations), " ],"]
    lines += [' "schemas": {']
    lines += [
        ",\n".join(
            f"  {json.dumps(schema)}: {_compact(extraction.schemas[schema])}"
            for schema in sorted(extraction.schemas)
        ),
        " }",
    ]
    Path(__file__).with_name(f"{name}.json").write_text("{\n" + "\n".join(lines) + "\n}\n")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
