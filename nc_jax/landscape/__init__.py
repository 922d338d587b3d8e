"""The landscape around a state: what it is, whether it is a minimum, how to leave it.

`classify`, `global_certificate`, `kkt_certificate`; `escape_direction`,
`tangent_descent_direction`, `descent_range`; `hessian_vector_product`, `dense_hessian`,
`extreme_eigenpairs`, `spectral_density`; `project_onto_symmetries`, `symmetry_dimension`;
`find_critical_points`. See docs/landscape.md. The first call of a shape compiles for some seconds.
"""

from .classification import KINDS as KINDS, Classification as Classification, classify as classify
from .directions import (
    CASES as CASES,
    DescentDirection as DescentDirection,
    descent_range as descent_range,
    escape_direction as escape_direction,
    tangent_descent_direction as tangent_descent_direction,
)
from .duality import (
    GlobalCertificate as GlobalCertificate,
    global_certificate as global_certificate,
)
from .hessian import (
    dense_hessian as dense_hessian,
    hessian_vector_product as hessian_vector_product,
    project_onto_tangent as project_onto_tangent,
    sphere_gradient as sphere_gradient,
)
from .kkt import KKTCertificate as KKTCertificate, kkt_certificate as kkt_certificate
from .search import (
    CriticalPoints as CriticalPoints,
    find_critical_points as find_critical_points,
)
from .spectrum import (
    Eigenpairs as Eigenpairs,
    SpectralDensity as SpectralDensity,
    extreme_eigenpairs as extreme_eigenpairs,
    spectral_density as spectral_density,
)
from .symmetries import (
    project_onto_symmetries as project_onto_symmetries,
    symmetry_dimension as symmetry_dimension,
)
