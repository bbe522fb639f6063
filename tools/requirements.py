"""Print the requirements of dependency groups or extras of pyproject.toml, one a line: for pip -r.

pip reads groups itself from 25.1 on; Debian 12 has 23.0.
"""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements(project: dict, name: str) -> list[str]:
    """The requirements of group ``name`` with what it includes, or of the extra of that name."""
    groups = project.get("dependency-groups", {})
    extras = project["project"].get("optional-dependencies", {})
    if name not in groups:
        if name in extras:
            return list(extras[name])
        raise SystemExit(f"pyproject.toml has no dependency group or extra {name!r}")
    found: list[str] = []
    for entry in groups[name]:
        found += requirements(project, entry["include-group"]) if isinstance(entry, dict) else [entry]
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: requirements.py GROUP...")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    print("\n".join(dict.fromkeys(r for name in sys.argv[1:] for r in requirements(project, name))))
