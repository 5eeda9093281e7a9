"""`dataclass` for values: what the standard one makes of `frozen=True, slots=True`, at a tenth of its price.

The standard one compiles six methods for each class as it is imported, and guardian has a hundred such classes: that
was half of the time that its imports took, and they stand between `guardian run` and the start of the job. Here five
of the six are shared by all classes, and `__init__` is compiled when the first value is made.

Type checkers see the standard decorator, and `fields`, `replace` and `asdict` of the standard library work as ever.
What no value of guardian needs is not there: values that inherit from values, `__post_init__`, `InitVar`, keyword-only
fields, pickling.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - tells mypy that others may import it from here
    from typing import Any, ClassVar

    class Value:
        """What the methods below know of the values they belong to."""

        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
        __value_key__: ClassVar[Any]
else:

    def dataclass(*, frozen: bool, slots: bool) -> object:
        """Decorate a class of values; each class says what it is, as its readers know it from the standard one."""
        assert frozen
        assert slots
        return _value


def _value(cls: type) -> type:
    """The class with its slots, its fields and the methods of a value."""
    cls.__doc__ = cls.__doc__ or cls.__name__  # else its signature is looked up, for a text that nobody reads
    made: type = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    assert not any(dataclasses.is_dataclass(base) for base in made.__bases__)
    for name, method in _METHODS.items():
        if name not in cls.__dict__:
            setattr(made, name, method)
    return made


class _Init:
    """Stands for a class's `__init__` until somebody asks for it, and then puts the real one in its own place."""

    def __get__(self, value: Value | None, owner: type[Value]) -> object:
        made = _compiled(owner)
        type.__setattr__(owner, "__init__", made)
        return getattr(owner if value is None else value, "__init__")  # noqa: B009 - mypy takes a plain one for object's


class _Key:
    """The same for what two values of a class are compared by: their fields, and the class."""

    def __get__(self, _: Value | None, owner: type[Value]) -> object:
        owner.__value_key__ = attrgetter(*(field.name for field in dataclasses.fields(owner)), "__class__")
        return owner.__value_key__


def _compiled(owner: type[Value]) -> object:
    """The `__init__` that dataclasses would write."""
    known: dict[str, object] = {"_set": object.__setattr__, "_absent": dataclasses.MISSING}
    parameters, lines = ["self"], ["pass"]
    for field in dataclasses.fields(owner):
        name = parameter = given = field.name
        if field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
        elif field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            parameter, given = f"{name}=_absent", f"_make_{name}() if {name} is _absent else {name}"
        parameters.append(parameter)
        lines.append(f"_set(self, {name!r}, {given})")
    text = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines)
    exec(text, known)  # noqa: S102 - made of the names of our own fields, as dataclasses does it
    return known["__init__"]


def _eq(self: Value, other: object) -> object:
    if isinstance(other, self.__class__):
        return self.__value_key__(self) == self.__value_key__(other)
    return NotImplemented


def _hash(self: Value) -> int:
    return hash(self.__value_key__(self))


def _repr(self: Value) -> str:
    said = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))
    return f"{self.__class__.__qualname__}({said})"


def _setattr(_: object, name: str, __: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(_: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


_METHODS = {
    "__init__": _Init(),
    "__value_key__": _Key(),
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _setattr,
    "__delattr__": _delattr,
}
