"""The type checker of the suite: shapes and types of the whole package, while tests run."""

import inspect
from collections.abc import Callable

from beartype import BeartypeConf, beartype

# As for people and pyright, an int is a float.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def unchecked(function: Callable) -> Callable:
    """Return a function, or the maker of a class, as users call it: without checks of types."""
    if not inspect.isclass(function):
        return inspect.unwrap(function)

    def make(*args, **options):
        made = function.__new__(function)
        inspect.unwrap(function.__init__)(made, *args, **options)
        return made

    return make
