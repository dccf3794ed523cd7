"""How much a code line holds, and how long functions, files and argument lists are.

A code line is a physical line that holds a token other than comments, docstrings and blanks. A node
is an expression of the syntax tree, docstrings left out.

    python tests/line_density.py rewardlab
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SILENT_TOKENS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
COLUMNS = 100


@dataclass
class Function:
    """One function: where it is, its lines of code, and its arguments without self or cls."""

    place: str
    name: str
    lines: int
    arguments: int


@dataclass
class File:
    """The counts of one file."""

    path: str
    code_lines: int
    all_lines: int
    wide_lines: int
    nodes: int
    comprehensions: int
    tuple_assignments: int
    conditionals: int
    crowded: list[str] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)

    @property
    def density(self) -> float:
        """Expression nodes a code line."""
        return self.nodes / max(self.code_lines, 1)


def measure(path: Path) -> File:
    """Return the counts of one file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings = list(_docstrings(tree))
    lines = _code_lines(text, docstrings)
    hidden = {id(node) for node in docstrings}
    nodes = list(ast.walk(tree))
    expressions = [node for node in nodes if isinstance(node, ast.expr) and id(node) not in hidden]
    return File(
        path=str(path),
        code_lines=len(lines),
        all_lines=text.count("\n"),
        wide_lines=sum(len(line) > COLUMNS for line in text.split("\n")),
        nodes=len(expressions),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        tuple_assignments=sum(_assigns_a_tuple(node) for node in nodes),
        conditionals=sum(isinstance(node, ast.IfExp) for node in nodes),
        crowded=[f"{path}:{place}" for place in _crowded(nodes)],
        functions=[_function(path, node, lines) for node in nodes if isinstance(node, FUNCTIONS)],
    )


def measure_folder(folder: Path) -> list[File]:
    """Return the counts of every Python file in a folder."""
    return [measure(path) for path in sorted(folder.rglob("*.py"))]


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        value = first.value if isinstance(first, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value


def _code_lines(text: str, docstrings: list[ast.Constant]) -> set[int]:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT_TOKENS:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in docstrings:
        lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _assigns_a_tuple(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assign):
        return False
    return any(isinstance(target, ast.Tuple) for target in node.targets)


def _crowded(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield comprehensions with more than one `for` and one `if`, or that hold another one.

    Also generators that are unpacked into names.
    """
    for node in nodes:
        if isinstance(node, COMPREHENSIONS):
            inner = sum(isinstance(part, COMPREHENSIONS) for part in ast.walk(node)) - 1
            conditions = sum(len(part.ifs) for part in node.generators)
            if inner or len(node.generators) > 1 or conditions > 1:
                yield f"{node.lineno}: a crowded comprehension"
        unpacked = isinstance(node, ast.Assign) and isinstance(node.value, ast.GeneratorExp)
        if unpacked and _assigns_a_tuple(node):
            yield f"{node.lineno}: an unpacked generator"


def _function(
    path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: set[int]
) -> Function:
    body = set(range(node.body[0].lineno, (node.end_lineno or 0) + 1))
    names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    arguments = [name for name in names if name.arg not in ("self", "cls")]
    return Function(f"{path}:{node.lineno}", node.name, len(body & lines), len(arguments))


def main() -> None:
    """Print the measurements of the folders that are given."""
    for folder in sys.argv[1:]:
        files = measure_folder(Path(folder))
        lines = sum(file.code_lines for file in files)
        print(f"{folder}: {len(files)} files, {lines} code lines")
        print(f"  {sum(file.nodes for file in files) / lines:.2f} expression nodes a line")
        for name in ("comprehensions", "tuple_assignments", "conditionals"):
            count = sum(getattr(file, name) for file in files)
            print(f"  {1000 * count / lines:.1f} {name} per 1,000 code lines")
        for file in sorted(files, key=lambda file: -file.density)[:10]:
            print(f"  {file.density:.2f} {file.code_lines:4} {file.path}")


if __name__ == "__main__":
    main()
