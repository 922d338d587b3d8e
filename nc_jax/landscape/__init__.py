"""The landscape around a state: kinds of points, certificates of optimality, directions of descent.

Every function takes a problem or, where the sphere ‖W‖² + ‖H‖² = ρ² is meant, `OnSphere(problem)`.
Gradients and Hessians of a `NormalizedFeatures` are those on the product of the spheres of its
rows. Functions on Hessians also take a curvature: `HessianOf` or `GaussNewtonOf` a function, or
that of a network (`cnn.curvature_for`).

- Kinds of points: `classify`, `find_critical_points`.
- Certificates: `global_certificate`, `kkt_certificate`, `separation_certificate`,
  `code_certificate`.
- Directions of descent: `escape_direction`, `tangent_descent_direction`, `descent_range`.
- Hessians: `hessian_vector_product`, `dense_hessian`, `extreme_eigenpairs`, `sharpness`,
  `spectral_density`.
- Symmetries: `project_onto_symmetries`, `symmetry_dimension`.

See docs/landscape.md. The first call with a shape compiles for some seconds.
"""

from .classification import KINDS as KINDS, Classification as Classification, classify as classify
from .curvature import (
    AbstractCurvature as AbstractCurvature,
    GaussNewtonOf as GaussNewtonOf,
    HessianOf as HessianOf,
)
from .density import SpectralDensity as SpectralDensity, spectral_density as spectral_density
from .directions import (
    CASES as CASES,
    DescentDirection as DescentDirection,
    descent_range as descent_range,
    escape_direction as escape_direction,
    tangent_descent_direction as tangent_descent_direction,
)
from .domains import (
    OnSphere as OnSphere,
    project_onto_tangent as project_onto_tangent,
    sphere_gradient as sphere_gradient,
)
from .duality import (
    GlobalCertificate as GlobalCertificate,
    global_certificate as global_certificate,
)
from .eigenpairs import (
    Eigenpairs as Eigenpairs,
    extreme_eigenpairs as extreme_eigenpairs,
    sharpness as sharpness,
)
from .hessian import (
    dense_hessian as dense_hessian,
    hessian_vector_product as hessian_vector_product,
)
from .kkt import KKTCertificate as KKTCertificate, kkt_certificate as kkt_certificate
from .search import (
    CriticalPoints as CriticalPoints,
    find_critical_points as find_critical_points,
)
from .separation import (
    SeparationCertificate as SeparationCertificate,
    separation_certificate as separation_certificate,
)
from .softmax_codes import CodeCertificate as CodeCertificate, code_certificate as code_certificate
from .symmetries import (
    project_onto_symmetries as project_onto_symmetries,
    symmetry_dimension as symmetry_dimension,
)
