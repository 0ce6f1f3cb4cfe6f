"""gidlite: generative image dynamics you can read, run and measure.

``import gidlite`` is light: import what you need from the modules, for example
``from gidlite.spectral import motion_to_spectral``.
"""

__version__ = "0.1.0"
