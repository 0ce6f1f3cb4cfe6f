"""Predicted against observed motion: where, how much, which frequencies, how coherent, how varied.

``scores`` says what is measured on one photo and its motion, ``baselines`` what a prior has to
beat, and ``motion`` runs a prior on real clips or held-out synthetic scenes; ``table`` prints.
"""

from gidlite.evaluate.motion import Sampling, evaluate_cases, evaluate_motion, evaluate_scenes
from gidlite.evaluate.scores import Case, MotionReport, MotionScores
from gidlite.evaluate.table import report_tables

__all__ = [
    "Case",
    "MotionReport",
    "MotionScores",
    "Sampling",
    "evaluate_cases",
    "evaluate_motion",
    "evaluate_scenes",
    "report_tables",
]
