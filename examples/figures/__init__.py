"""Figures of single examples; each is drawn from the data sets that its example saves."""
