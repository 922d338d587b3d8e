"""Many runs over seeds and settings, as one labelled data set."""

from .sweep import sweep as sweep
