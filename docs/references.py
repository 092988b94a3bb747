"""Pages of the manual that are made of the code: they cannot fall behind it."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from clinfra.cli import make_parser
from clinfra.proxy.command_line import about, options
from clinfra.proxy.loading import BUILT_IN
from clinfra.reference import Key, keys

SOURCES = Path(__file__).resolve().parent.parent / "clinfra"

_SECTIONS = {
    "": "Everything",
    "blob": "Blob store",
    "image": "Image service",
    "proxy": "Proxy",
    "admin": "Admin listener",
    "logging": "Logs",
}
_LITERAL = "    "


def write_all(directory: Path) -> None:
    """Write the pages; those that are up to date are left alone."""
    directory.mkdir(exist_ok=True)
    for name, text in (
        ("configuration", configuration()),
        ("modules", modules()),
        ("commands", commands()),
        ("guide", docstring("proxy/rules.py")),
        ("hooks", hooks()),
        ("blob", docstring("blob/resource.py")),
        ("blob-commands", docstring("blob/admin.py")),
        ("admin", docstring("admin/resource.py")),
        ("console", docstring("admin/console.py")),
        ("access", docstring("admin/access.py")),
    ):
        path = directory / f"{name}.inc"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def configuration() -> str:
    """Return every key of the configuration, a table for each section."""
    known = list(keys())
    parts = []
    for section, title in _SECTIONS.items():
        parts.append(_heading(title, "-"))
        mine = [each for each in known if _section(each) == section]
        parts.append(_table(mine))
    return "\n".join(parts)


def _section(each: Key) -> str:
    first, dot, _ = each.name.partition(".")
    return first if dot else ""


def modules() -> str:
    """Return what each rule module is for and what it is told."""
    parts = []
    for name in sorted(BUILT_IN):
        parts.append(_heading(name, "-"))
        parts.append(_spoken(about(name).partition(": ")[2].capitalize()) + "\n")
        kind = options(name)
        parts.append(_table(keys(kind)) if kind is not None else "It has no options.\n")
    return "\n".join(parts)


def commands() -> str:
    """Return what every command says of itself."""
    parser = make_parser()
    parts = []
    for each in _leaves(parser):
        parts.append(_heading(each.prog, "-"))
        # The width it has depends on the terminal unless it is told.
        each.formatter_class = _Formatter
        parts.append(f"::\n\n{_indented(each.format_help())}\n")
    return "\n".join(parts)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    inner = [
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    if not inner:
        yield parser
    for action in inner:
        for each in action.choices.values():
            yield from _leaves(each)


def hooks() -> str:
    """Return the hooks of rule modules, in the order a request meets them."""
    (interface,) = (
        node
        for node in ast.parse(_source("interfaces.py")).body
        if isinstance(node, ast.ClassDef) and node.name == "IRuleModule"
    )
    parts = []
    for node in interface.body:
        if isinstance(node, ast.FunctionDef):
            arguments = ", ".join(each.arg for each in node.args.args)
            doc = " ".join((ast.get_docstring(node) or "").split())
            parts.append(f"``{node.name}({arguments})``\n    {_spoken(doc)}\n")
    return "\n".join(parts)


def docstring(path: str) -> str:
    """Return what a module of clinfra says of itself, but for its first line."""
    doc = ast.get_docstring(ast.parse(_source(path))) or ""
    return as_page(doc.partition("\n\n")[2])


def as_page(doc: str) -> str:
    """Return a docstring as a page: names in `quotes` and indented text as code."""
    parts = []
    literal = False
    for part in re.split(r"\n{2,}", doc.strip("\n")):
        if part.startswith(_LITERAL):
            parts.append(part if literal else f"::\n\n{part}")
            literal = True
        else:
            parts.append(_spoken(part))
            literal = False
    return "\n\n".join(parts) + "\n"


def _source(path: str) -> str:
    return (SOURCES / path).read_text(encoding="utf-8")


def _spoken(text: str) -> str:
    """Return text with `names` as code, where they are not already."""
    return re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", text)


def _heading(title: str, line: str) -> str:
    return f"{title}\n{line * len(title)}\n"


def _table(known: Iterable[Key]) -> str:
    rows = [".. list-table::", "   :widths: 30 20 50", "   :header-rows: 1", ""]
    rows += ["   * - Key", "     - Default", "     - Meaning"]
    for each in known:
        default = "" if each.default is None else _code(each.default)
        rows += [f"   * - {_code(each.name)}", f"     - {default}"]
        rows.append(f"     - {_escaped(each.doc)}")
    return "\n".join(rows) + "\n"


def _code(text: str) -> str:
    # Literal text cannot be empty, nor begin or end with blanks.
    return f"``{text}``" if text.strip() == text and text else _escaped(text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_|`])", r"\\\1", text)


def _indented(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(f"{_LITERAL}{line}".rstrip() for line in lines) + "\n"
