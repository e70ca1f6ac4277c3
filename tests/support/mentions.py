"""Finds what documentation and comments say about the project's own files, modules and headings.

A mention is checked if it can be nothing else: a path that begins with a top-level folder or ends
like a source file (`udfs/worker.py`), the name of a source file alone (`worker.py`), a dotted name
of a package of ours (`liveprofile.wire`, `jobs.sql.tables.record_file`), and a heading of a page
(`docs/api.md#keys`). `<name>`, `NAME` and `*` stand for any name and are not checked.
"""

import ast
import io
import posixpath
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from tests.support.paths import ROOT

SOURCES = r"(?:py|java|md|cql|css|js|sh)"
PATH = re.compile(r"(?<![\w./:@~$<>{}*#-])[\w.-]+(?:/[\w.-]+)+/?(?![\w{<*\[]|/[{<*])")
FILE = re.compile(rf"(?<![\w./*<>{{}}-])[A-Za-z]\w*\.{SOURCES}(?![\w./-])")
DOTTED = re.compile(r"(?<![\w./:@~$<>{}*#\\-])[a-z]\w*(?:\.[A-Za-z_]\w*)+(?![\w/-])")
PAGE = re.compile(r"(?<![\w/.])((?:docs|lab)/[\w-]+\.md)(?:#([\w-]+))?")
FOREIGN_LINK = re.compile(r"\[[^\]]*\]\(\w+://[^)\s]+\)")
LINK_TARGET = re.compile(r"\]\([^)\s]+\)")
COMMENT = {
    ".java": re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL),
    ".cql": re.compile(r"--[^\n]*"),
} | dict.fromkeys((".toml", ".yaml", ".sh"), re.compile(r"#[^\n]*"))
DOCUMENTED = {".py", ".md", *COMMENT}
TEXTS = {".html", ".json", *DOCUMENTED}


def documentation(path: str, text: str) -> str:
    """Docstrings and comments of a source file; a page without the targets of its links."""
    suffix = PurePosixPath(path).suffix
    if suffix == ".md":
        return LINK_TARGET.sub("]", FOREIGN_LINK.sub("", text))
    if suffix == ".py":
        return "\n".join(_python(text))
    return "\n".join(COMMENT[suffix].findall(text)) if suffix in COMMENT else ""


def anchors(page: str) -> set[str]:
    """The anchors that GitHub derives from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def read_project() -> "Project":
    """The files that git tracks. Files without documentation are empty: some are large."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]
    texts = {path: PurePosixPath(path).suffix in TEXTS for path in paths}
    return Project(
        {
            path: (ROOT / path).read_text("utf-8") if is_text else ""
            for path, is_text in texts.items()
        }
    )


class Project:
    """What can be mentioned. `texts`: the text of each tracked file by its path from the root."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        paths = [PurePosixPath(path) for path in texts]
        folders = {str(folder) for path in paths for folder in path.parents} - {"."}
        self._paths = texts.keys() | folders
        # A comment may leave out the folders that it shares with the file it names.
        self._ends = {
            "/".join(path.parts[start:]) for path in paths for start in range(len(path.parts))
        }
        self._top = {path.parts[0] for path in paths if len(path.parts) > 1}
        self._modules = {
            str(path.with_suffix("")).removesuffix("/__init__").replace("/", "."): str(path)
            for path in paths
            if path.suffix == ".py"
        }
        self._packages = {name.split(".")[0] for name in self._modules if name in self._top}
        self._namespaces = {folder.replace("/", ".") for folder in folders}
        self._names: dict[str, set[str]] = {}

    def missing(self, path: str) -> set[str]:
        """The mentions in docstrings, comments or the page that name nothing."""
        if PurePosixPath(path).suffix not in DOCUMENTED:
            return set()
        text = self.texts[path]
        # To parse a file takes long: only if something in it, code included, names nothing.
        found = self._missing(path, text)
        return found & self._missing(path, documentation(path, text)) if found else found

    def missing_pages(self, text: str) -> set[str]:
        """The pages and headings in a text that do not exist."""
        return {match[0] for match in PAGE.finditer(text) if not self._is_heading(*match.groups())}

    def _missing(self, path: str, text: str) -> set[str]:
        return {
            *(each for each in PATH.findall(text) if not self._is_path(path, each)),
            *(each for each in FILE.findall(text) if each not in self._ends),
            *(each for each in DOTTED.findall(text) if not self._is_name(each)),
            *self.missing_pages(text),
        }

    def _is_path(self, path: str, mention: str) -> bool:
        mention = mention.rstrip("./")
        if re.search(rf"\.{SOURCES}$", mention):
            known = mention in self._ends
        elif mention.split("/")[0] in self._top:
            known = mention in self._paths or f"{mention}.py" in self._paths
        else:
            return True
        return known or posixpath.normpath(f"{posixpath.dirname(path)}/{mention}") in self._paths

    def _is_name(self, mention: str) -> bool:
        parts = mention.split(".")
        if parts[0] not in self._packages or mention in self._namespaces or parts[-1].isupper():
            return True
        if re.fullmatch(SOURCES + "|toml", parts[-1]):  # the name of a file
            return True
        for end in range(len(parts), 0, -1):
            module = ".".join(parts[:end])
            if module in self._modules:
                return end == len(parts) or parts[end] in self._names_of(module)
        return False

    def _names_of(self, module: str) -> set[str]:
        """Everything that the module defines or imports."""
        if module not in self._names:
            tree = ast.parse(self.texts[self._modules[module]])
            self._names[module] = set(_defined(tree.body))
        return self._names[module]

    def _is_heading(self, page: str, anchor: str | None) -> bool:
        return page in self.texts and (anchor is None or anchor in anchors(self.texts[page]))


def _python(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name))
            case ast.If() | ast.Try() | ast.With():
                yield from _defined(node.body)
