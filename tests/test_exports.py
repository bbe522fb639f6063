"""The public surface: what __all__ says is there, has a docstring, and is all there is."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from types import ModuleType

import pytest

import ustack

PUBLIC = ["ustack", *sorted(
    f"ustack.{m.name}" for m in pkgutil.iter_modules(ustack.__path__) if not m.name.startswith("_")
)]
# Modules that need an extra, and what brings it.
NEEDS = {"ustack.trio": "trio"}


def load(name: str) -> ModuleType:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return importlib.import_module(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_all_is_true(name: str):
    module = load(name)
    assert module.__doc__, f"{name} has no docstring"
    missing = [n for n in module.__all__ if not hasattr(module, n)]
    assert not missing
    assert len(set(module.__all__)) == len(module.__all__)


ALONE = """
import importlib, sys

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"ustack"} and not name.startswith("_"):
            raise ModuleNotFoundError(f"{name} is not of the standard library", name=name)

sys.meta_path.insert(0, Only())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_nothing_but_the_standard_library_is_needed():
    """dependencies = [] in pyproject.toml."""
    names = [name for name in PUBLIC if name not in NEEDS]
    subprocess.run([sys.executable, "-P", "-c", ALONE, *names], check=True, timeout=60)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_looks_public_is_in_all(name: str):
    module = load(name)
    own = {
        n for n, thing in vars(module).items()
        if not n.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == name
    }
    assert own <= set(module.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_says_what_it_is(name: str):
    module = load(name)
    silent = []
    for n in module.__all__:
        thing = getattr(module, n)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)) or not ours(thing):
            continue
        if not (thing.__doc__ or "").strip():
            silent.append(n)
        if inspect.isclass(thing):
            # Attributes of compiled classes cannot have one: the class's own speaks of them.
            silent += [f"{n}.{m}" for m, member in vars(thing).items()
                       if not m.startswith("_") and is_member(member) and not (member.__doc__ or "").strip()
                       and not re.search(rf"\b{m}\b", thing.__doc__ or "")]
    assert not silent, f"without a docstring: {silent}"


def ours(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").startswith("ustack")


def is_member(member: object) -> bool:
    return inspect.isroutine(member) or isinstance(member, (property, classmethod, staticmethod)) \
        or inspect.isgetsetdescriptor(member) or inspect.ismethoddescriptor(member)
