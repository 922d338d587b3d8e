"""Closed forms: the oracles that integrations are tested against. Never imports dynamics."""

from .ulpm import collapsed_gap as collapsed_gap, collapsed_state as collapsed_state
