"""Is a file valid CycloneDX 1.6? Prints what is wrong; the schema is in the library.

Runs in a venv of its own: ``containers/requirements-sbom.txt`` and ``requirements/sbom.txt``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = Path(sys.argv[1]).read_text(encoding="utf-8")
if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
    raise SystemExit(f"not valid: {error}")
