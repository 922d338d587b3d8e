"""The version of the package, for the package itself and for the tool that builds it."""

# A constant and not the metadata of an installation, so that a checkout works without one.
__version__ = "0.1.0"
