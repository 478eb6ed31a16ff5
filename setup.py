"""A check before anything is built; everything else of the package is said in pyproject.toml."""

from pathlib import Path

from setuptools import setup

PACKAGE = Path(__file__).resolve().parent / "alike"
FOLDERS = ("analysis", "extract", "flows", "index", "serve", "train")
broken = [name for name in FOLDERS if not (PACKAGE / name / "__init__.py").is_file()]
if broken:
    raise SystemExit(
        f"alike/{broken[0]} is no link to the folder {broken[0]}/: git wrote the links of alike/ "
        "as text files here, and the package would be empty. Run `git config core.symlinks true` "
        "and `git checkout -- alike`, on Windows in developer mode; then build again."
    )
setup()
