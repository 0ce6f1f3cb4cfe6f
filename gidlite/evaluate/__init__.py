"""What a prior imagines against what happens, and folders of videos against real ones.

``scores`` says what is measured on one photo and its motion, ``baselines`` what a prior has to
beat, and ``motion`` runs a prior on real clips or held-out synthetic scenes. ``video`` compares
folders of videos by FID, KID and FVD from ``features``, which are kept on disk. ``render``
compares ways to warp a photo. ``table`` prints.
"""

from gidlite.evaluate.motion import Sampling, evaluate_cases, evaluate_motion, evaluate_scenes
from gidlite.evaluate.scores import Case, MotionReport, MotionScores
from gidlite.evaluate.table import report_tables, video_tables
from gidlite.evaluate.video import VideoReport, VideoSettings, evaluate_videos

__all__ = [
    "Case",
    "MotionReport",
    "MotionScores",
    "Sampling",
    "VideoReport",
    "VideoSettings",
    "evaluate_cases",
    "evaluate_motion",
    "evaluate_scenes",
    "evaluate_videos",
    "report_tables",
    "video_tables",
]
