"""Is this a valid Workflow Run RO-Crate, and this a description of a BIDS derivative?

    python tests/crate_check.py crate FOLDER PROFILE
    python tests/crate_check.py description FILE

Runs in a venv of requirements/crate.txt, without a network. What is wrong goes to standard output,
a line each; exit status 1 then. The validator's settings are of its whole process: one at a time.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

CONTEXT = "https://w3id.org/ro/crate/1.1/context"


class FromFile(HTTPAdapter):
    """Answers every request with one document."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        from urllib3 import HTTPResponse

        headers = {"Content-Type": "application/ld+json"}
        body = io.BytesIO(self.content)
        raw = HTTPResponse(body=body, headers=headers, status=200, preload_content=False)
        return self.build_response(request, raw)


def seed(cache: Path) -> None:
    """Put RO-Crate's terms where the validator looks for what it has fetched before.

    It brings the rules along and not the terms; offline it would check nothing without them.
    """
    from requests_cache import CachedSession

    terms = (resources.files("rocrate") / "data/ro-crate.jsonld").read_bytes()
    with CachedSession(cache_name=str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount(CONTEXT, FromFile(terms))
        session.get(CONTEXT)


def wrong_in_crate(folder: Path, profile: str) -> Iterator[str]:
    """What the profile requires and the crate lacks, and checks that could not be made."""
    from rocrate_validator.models import Severity, ValidationSettings
    from rocrate_validator.services import validate

    with tempfile.TemporaryDirectory() as own:
        cache = Path(own) / "http"
        seed(cache)
        settings = ValidationSettings(
            rocrate_uri=folder,
            profile_identifier=profile,
            requirement_severity=Severity.REQUIRED,
            offline=True,
            cache_path=cache,
        )
        result = validate(settings)
    for issue in result.get_issues():
        yield f"{issue.check.identifier} {issue.violatingEntity} {issue.message}"
    for skipped in result.skipped_check_details:
        yield f"not checked: {skipped.check.identifier} {skipped.message}"
    if not result.executed_checks:
        yield "nothing was checked"


def wrong_in_description(file: Path) -> Iterator[str]:
    """By BIDS's own schema. The BIDS validator does not look at descriptions of derivatives."""
    from jsonschema import Draft202012Validator

    schema = json.loads((resources.files("bidsschematools") / "data/schema.json").read_text())
    metadata, rules = schema["objects"]["metadata"], schema["rules"]["json"]["dataset"]
    fields = rules["dataset_description"]["fields"] | rules["derivative_description"]["fields"]
    required = [
        name
        for name, level in fields.items()
        if (level if isinstance(level, str) else level["level"]) == "required"
    ]
    checker = Draft202012Validator(
        {
            "type": "object",
            "required": required,
            "properties": {name: metadata[name] for name in fields}
            | {"DatasetType": {"const": "derivative"}},
            "additionalProperties": False,
        }
    )
    for error in checker.iter_errors(json.loads(file.read_text())):
        yield error.message


def main() -> int:
    what, place, *profile = sys.argv[1:]
    checks = {"crate": wrong_in_crate, "description": wrong_in_description}
    found = list(checks[what](Path(place), *profile))
    for line in found:
        print(" ".join(line.split()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
