"""Closed forms: the oracles that integrations are tested against. Never imports dynamics."""

from .mixon import (
    Eigenspace as Eigenspace,
    linearized_bound as linearized_bound,
    linearized_eigenspaces as linearized_eigenspaces,
    linearized_solution as linearized_solution,
    strong_collapse as strong_collapse,
    subspace_limit as subspace_limit,
    subspace_objective as subspace_objective,
    subspace_solution as subspace_solution,
)
from .ulpm import collapsed_gap as collapsed_gap, collapsed_state as collapsed_state
