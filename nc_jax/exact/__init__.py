"""Closed forms, which the tests compare integrations with. They never import `dynamics`."""

from .linear_network import (
    linear_limit as linear_limit,
    linear_path as linear_path,
    linear_time as linear_time,
)
from .linearized import (
    Eigenspace as Eigenspace,
    linearized_bound as linearized_bound,
    linearized_eigenspaces as linearized_eigenspaces,
    linearized_solution as linearized_solution,
)
from .norms import (
    StuckMargins as StuckMargins,
    logistic_norm as logistic_norm,
    norm_time as norm_time,
    normalized_norm as normalized_norm,
    stuck_margins as stuck_margins,
)
from .regularized import (
    minimum_nullity as minimum_nullity,
    origin_eigenvalues as origin_eigenvalues,
    regularized_minimizer as regularized_minimizer,
    regularized_minimum as regularized_minimum,
)
from .saddles import (
    grouped_saddle as grouped_saddle,
    paired_saddle as paired_saddle,
    subset_saddle as subset_saddle,
)
from .sphere import (
    EXAMPLE_3_1_CURVATURE as EXAMPLE_3_1_CURVATURE,
    example_3_1 as example_3_1,
    example_3_1_loss as example_3_1_loss,
    example_3_1_multipliers as example_3_1_multipliers,
    max_margin_bound as max_margin_bound,
    separation_optimum as separation_optimum,
    sphere_optimum as sphere_optimum,
)
from .square_loss import (
    NormalizedGeometry as NormalizedGeometry,
    OrthogonalGeometry as OrthogonalGeometry,
    SimplexGeometry as SimplexGeometry,
    normalized_geometry as normalized_geometry,
    orthogonal_geometry as orthogonal_geometry,
    simplex_geometry as simplex_geometry,
    square_loss_gap as square_loss_gap,
    square_loss_minimizer as square_loss_minimizer,
)
from .subspace import (
    strong_collapse as strong_collapse,
    subspace_limit as subspace_limit,
    subspace_objective as subspace_objective,
    subspace_solution as subspace_solution,
)
from .ulpm import collapsed_gap as collapsed_gap, collapsed_state as collapsed_state
