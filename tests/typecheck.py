"""The type checker of the suite: shapes and types of the whole package, while tests run."""

from beartype import BeartypeConf, beartype

# As for people and pyright, an int is a float.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
