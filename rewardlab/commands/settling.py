"""What is settled after a command line is parsed: unset seeds, nulls, and lost words.

The parser takes null for every argument, whatever its type, and turns names of functions into
functions, which no YAML holds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from jsonargparse import Namespace

from rewardlab.commands.composing import Composition, Keys, find
from rewardlab.errors import InputError

LOST = "unable to serialize instance"  # what the parser (4.53) writes, in any case of letters
ROOTS = {
    "trainer": "pytorch_lightning.Trainer",
    "experiment": "rewardlab.commands.words.Experiment",
}


class Slot(NamedTuple):
    """A value of a parsed config.

    Attributes:
        keys: its path, without `init_args`; items of lists are counted.
        holder: the namespace, mapping or list that holds it.
        key: its key or its position there.
    """

    keys: Keys
    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        """The value as it stands."""
        return self.holder[self.key]


def settle(config: Namespace, written: Composition) -> None:
    """Change a parsed config where the parser left what nobody meant.

    Raises:
        InputError: for a null that its argument cannot take.
    """
    restore_words(config, written)
    slots = list(walk(config))
    for slot in slots:
        _settle_null(slot, written)
    _derive_seeds(slots, written)


def walk(node: Any, keys: Keys = ()) -> Iterator[Slot]:
    """Yield every value of a parsed config that is no namespace, mapping or list of some.

    Example:
        >>> config = Namespace(a=Namespace(class_path="m.C", init_args=Namespace(seed=0)))
        >>> [(slot.keys, slot.value) for slot in walk(config)]
        [(('a', 'class_path'), 'm.C'), (('a', 'seed'), 0)]
    """
    for key, value in _items(node):
        below = keys if key == "init_args" else (*keys, str(key))
        if _items(value):
            yield from walk(value, below)
        else:
            yield Slot(below, node, key)


def _items(node: Any) -> list[tuple[Any, Any]]:
    """Return the keys and values of what holds others."""
    if isinstance(node, Namespace):
        return list(vars(node).items())
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, MutableSequence):
        return list(enumerate(node))
    return []


def restore_words(config: Any, written: Composition) -> None:
    """Put words back that the parser took for objects and lost, such as a function's bare name."""
    for slot in list(walk(config)):
        value = slot.value
        if isinstance(value, str) and value.lower().startswith(LOST) and written.has(slot.keys):
            slot.holder[slot.key] = written.values[slot.keys]


def _derive_seeds(slots: Sequence[Slot], written: Composition) -> None:
    """Give every `seed` that is left unset the experiment's, if that is written."""
    if not written.has(("experiment", "seed")):
        return
    by_keys = {slot.keys: slot for slot in slots}
    seed = by_keys["experiment", "seed"].value
    for slot in slots:
        is_unset = slot.keys[-1] == "seed" and not written.has(slot.keys)
        if is_unset and (slot.value is None or type(slot.value) is int):
            slot.holder[slot.key] = seed


def _settle_null(slot: Slot, written: Composition) -> None:
    """Make a null that was written the empty value of its argument, or refuse it."""
    if slot.value is not None or not written.has(slot.keys):
        return
    argument = _argument(slot.keys, written)
    if argument is None or argument.allows_null:
        return
    empty = argument.empty
    if empty is None:
        raise InputError(
            f"{'.'.join(slot.keys)} is null, and {argument.owner} takes no null there. Leave the "
            "key out for its default, or give a value."
        )
    slot.holder[slot.key] = empty()


class Argument(NamedTuple):
    """An argument of a class or a function.

    Attributes:
        owner: the class or the function.
        kinds: the types that it takes, of a union each; empty if they are not known.
        default: its default, `inspect.Parameter.empty` if it has none.
    """

    owner: str
    kinds: tuple[Any, ...]
    default: Any

    @property
    def allows_null(self) -> bool:
        """Whether null is a value of it, as far as is known."""
        takes_any = not self.kinds or Any in self.kinds or type(None) in self.kinds
        return takes_any or self.default is None

    @property
    def empty(self) -> Callable[[], Any] | None:
        """What makes its empty value, if it is a list or a mapping."""
        for kind in self.kinds:
            origin = get_origin(kind) or kind
            if inspect.isclass(origin) and issubclass(origin, Mapping):
                return dict
            if inspect.isclass(origin) and issubclass(origin, Sequence) and origin is not str:
                return list
        return None


def _argument(keys: Keys, written: Composition) -> Argument | None:
    """Return the argument at a path, or None if its class is not known."""
    for length in range(len(keys) - 1, 0, -1):
        class_path = written.class_at(keys[:length]) or ROOTS.get(".".join(keys[:length]))
        owner = find(class_path)
        if owner is not None:
            return _argument_below(owner, keys[length:])
    return None


def _argument_below(owner: Any, keys: Keys) -> Argument | None:
    """Return the argument at a path below a class, through arguments that are dataclasses."""
    argument = _own_argument(owner, keys[0])
    if argument is None or len(keys) == 1:
        return argument
    for kind in argument.kinds:
        if hasattr(kind, "__dataclass_fields__"):
            return _argument_below(kind, keys[1:])
    return None


def _own_argument(owner: Any, name: str) -> Argument | None:
    """Return the argument of a name; a class may hand it on to one that it derives from."""
    for function in inspect.getmro(owner) if inspect.isclass(owner) else [owner]:
        try:
            parameter = inspect.signature(function).parameters.get(name)
            maker = function.__init__ if inspect.isclass(function) else function
            hint = get_type_hints(maker).get(name)
        except (NameError, TypeError, ValueError):  # annotations that only type checkers import
            continue
        if parameter is not None:
            return Argument(owner.__qualname__, _kinds(hint), parameter.default)
    return None


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    if hint is None:
        return ()
    is_union = get_origin(hint) in (Union, UnionType)
    return get_args(hint) if is_union else (hint,)
