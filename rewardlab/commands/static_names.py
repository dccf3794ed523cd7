"""The arguments of classes, read from their source, so that a typo costs no import."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

Definition = ast.ClassDef | ast.FunctionDef
_MOST_STEPS = 8  # from a package that hands a name on to the module that defines it


class Found(NamedTuple):
    """A class or function as its source defines it.

    Attributes:
        name: its full name.
        arguments: the names that it takes; None where the source alone does not tell.
    """

    name: str
    arguments: tuple[str, ...] | None


def look_up(class_path: str) -> Found | None:
    """Return the class or function of an import path, or None if its source is not found.

    Example:
        >>> look_up("rewardlab.training.SFT").name
        'rewardlab.training.sft.SFT'
        >>> "weight_decay" in look_up("torch.optim.SGD").arguments
        True
    """
    module, _, name = class_path.rpartition(".")
    for _ in range(_MOST_STEPS):
        tree = _tree(module)
        if tree is None:
            return None
        definition = _definition(tree, name)
        if definition is not None:
            return Found(f"{module}.{name}", _arguments(definition))
        home = _home(tree, module, name)
        if home is None:
            return None
        module, name = home
    return None


def _tree(module: str) -> ast.Module | None:
    """Return the parsed source of a module."""
    file = _file(module)
    if file is None:
        return None
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def _file(module: str) -> Path | None:
    """Return the source file of a module without importing its packages."""
    top, *rest = module.split(".")
    spec = find_spec(top) if top else None  # editable installs have a finder of their own
    if spec is None or not spec.origin:
        return None
    if not rest:
        return Path(spec.origin)
    base = Path(spec.origin).parent.joinpath(*rest)
    for file in (base / "__init__.py", base.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _definition(tree: ast.Module, name: str) -> Definition | None:
    for statement in tree.body:
        if isinstance(statement, Definition) and statement.name == name:
            return statement
    return None


def _home(tree: ast.Module, module: str, name: str) -> tuple[str, str] | None:
    """Return the module and the name that a module takes a name from."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return _absolute(statement, module), alias.name
        lazy = _lazy_home(statement, name)
        if lazy is not None:
            return lazy, name
    return None


def _absolute(statement: ast.ImportFrom, module: str) -> str:
    """Return the full name of the module of an import."""
    if statement.level == 0:
        return statement.module or ""
    file = _file(module)
    is_package = file is not None and file.name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - statement.level + is_package]
    return ".".join([*parts, *([statement.module] if statement.module else [])])


def _lazy_home(statement: ast.stmt, name: str) -> Any:
    """Return the module of a name in a package's table of lazy names, `_HOMES`."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Dict):
        return None
    target = statement.targets[0]
    if not isinstance(target, ast.Name) or target.id != "_HOMES":
        return None
    for key, value in zip(statement.value.keys, statement.value.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == name:
            return ast.literal_eval(value)
    return None


def _arguments(definition: Definition) -> tuple[str, ...] | None:
    """Return what a function, or a class's own `__init__`, takes, unless it hands others on."""
    function: ast.stmt | None = definition
    if isinstance(definition, ast.ClassDef):
        makers = [item for item in definition.body if getattr(item, "name", "") == "__init__"]
        function = makers[0] if makers else None
    if not isinstance(function, ast.FunctionDef):
        return None
    if function is definition and function.decorator_list:  # which may change what it takes
        return None
    if function.args.kwarg or function.args.vararg:
        return None
    listed = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return tuple(argument.arg for argument in listed if argument.arg != "self")
