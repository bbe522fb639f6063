"""Print the files of the Python package, one a line: what the build installs beside the compiled core."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {".py", ".pyi", ".typed"}


def package_files() -> list[str]:
    """Paths relative to the project's root, sorted."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "ustack").rglob("*")
        if path.suffix in KINDS and "__pycache__" not in path.parts
    )


if __name__ == "__main__":
    print("\n".join(package_files()))
