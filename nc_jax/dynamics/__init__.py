"""Dynamics: integrate a problem's flow, or descend its objective, and record observables."""

from .clock import (
    AbstractClock as AbstractClock,
    LogLogTime as LogLogTime,
    LogTime as LogTime,
    RealTime as RealTime,
    log_times as log_times,
)
from .descent import gradient_descent as gradient_descent, log_steps as log_steps
from .flow import Flow as Flow, gradient_flow as gradient_flow
from .pieces import Interrupted as Interrupted
from .rkc import RKC as RKC
from .stiff import stiff_solver as stiff_solver
