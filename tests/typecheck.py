"""How annotations are checked while the tests run."""

from beartype import BeartypeConf, beartype

# An int where a float is annotated is fine (PEP 484's numeric tower), as every caller expects.
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
