"""Guardian's own `dataclass` against the standard one, on a class of each kind and on every class that uses it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import guardian
from guardian.core.values import dataclass


class Plain:
    """The body of the classes under test."""

    step: int
    loss: float | None = None
    tags: tuple[str, ...] = dataclasses.field(default_factory=tuple)


def made_by(decorator):
    """A class of the same body, made by one of the two decorators."""
    body = {"__annotations__": dict(Plain.__annotations__), "__module__": __name__, "__doc__": "A step."}
    body |= {"loss": None, "tags": dataclasses.field(default_factory=tuple)}
    return decorator(frozen=True, slots=True)(type("Plain", (), body))


OURS, THEIRS = made_by(dataclass), made_by(dataclasses.dataclass)
ARGUMENTS = [((1,), {}), ((1, 2.0), {}), ((1,), {"tags": ("a",)}), ((), {"step": 1, "loss": 0.5, "tags": ()})]


@pytest.mark.parametrize("arguments, named", ARGUMENTS)
def test_a_value_is_made_as_the_standard_one_is(arguments, named):
    """Positions, names, defaults and factories mean the same, and the value reads the same."""
    ours, theirs = OURS(*arguments, **named), THEIRS(*arguments, **named)

    assert repr(theirs) == repr(ours)
    assert dataclasses.asdict(theirs) == dataclasses.asdict(ours)


@pytest.mark.parametrize("arguments, named", [((), {}), ((1, 2, 3, 4), {}), ((1,), {"no": 1}), ((1,), {"step": 2})])
def test_wrong_arguments_are_refused(arguments, named):
    """Also before the first value is made, when `__init__` is not compiled yet."""
    with pytest.raises(TypeError):
        made_by(dataclass)(*arguments, **named)


def test_values_are_equal_by_their_fields_and_their_class():
    """What is equal has one hash; another class with the same fields is another value."""
    assert OURS(1, 2.0) == OURS(1, 2.0)
    assert hash(OURS(1, 2.0)) == hash(OURS(1, 2.0))
    assert OURS(1, 2.0) != OURS(1, 3.0)
    assert OURS(1) != THEIRS(1)
    assert OURS(1) != made_by(dataclass)(1)
    assert OURS(1) != (1, None, ())


def test_a_value_without_fields_equals_its_like():
    """States have none."""
    first, second = (dataclass(frozen=True, slots=True)(type("State", (), {"__doc__": "."})) for _ in range(2))

    assert first() == first()
    assert hash(first()) == hash(first())
    assert first() != second()


def test_a_value_cannot_be_changed():
    """Neither its fields nor anything else."""
    value = OURS(1)

    for act in (lambda: setattr(value, "step", 2), lambda: setattr(value, "new", 2), lambda: delattr(value, "step")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            act()
    assert not hasattr(value, "__dict__")
    assert 1 == value.step


def test_a_value_can_be_replaced_and_matched():
    """`replace` of the standard library and `case` with positions know its fields."""
    match dataclasses.replace(OURS(1), loss=0.5):
        case OURS(step, loss):
            assert (1, 0.5) == (step, loss)
        case _:
            pytest.fail("does not match")


def test_a_class_of_values_has_no_heirs():
    """The shared methods know the fields of one class only."""
    with pytest.raises(AssertionError):
        dataclass(frozen=True, slots=True)(type("Heir", (OURS,), {"__doc__": "."}))


def values():
    """Every class of guardian that the decorator made."""
    found = {}
    for module in pkgutil.walk_packages(guardian.__path__, "guardian."):
        if module.name.startswith(("guardian.trainer", "guardian.rules")) or module.name.endswith("__main__"):
            continue
        for one in vars(importlib.import_module(module.name)).values():
            if isinstance(one, type) and one.__module__ == module.name and hasattr(one, "__value_key__"):
                found[f"{module.name}.{one.__qualname__}"] = one
    return found


@pytest.mark.parametrize("cls", values().values(), ids=values().keys())
def test_every_class_of_values_is_called_as_the_standard_one_would_be(cls):
    """Same parameters, same order, same defaults."""
    body = {"__annotations__": dict(cls.__annotations__), "__module__": cls.__module__}
    for field in dataclasses.fields(cls):
        given = {name: getattr(field, name) for name in ("default", "default_factory")}
        body[field.name] = dataclasses.field(**given)
    standard = dataclasses.dataclass(frozen=True)(type(cls.__name__, (), body))

    def shape(made):
        """Factories are shown as `<factory>` by the one and as absent by the other: a default stands there."""
        return [(p.name, p.kind, p.default is p.empty) for p in inspect.signature(made).parameters.values()]

    assert shape(standard) == shape(cls)
