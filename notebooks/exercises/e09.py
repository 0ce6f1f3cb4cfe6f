"""Checks of lesson 09."""

import math

from gidlite.loops import loop_gap
from gidlite.motion.spectral import spectral_to_motion


def fits(answer):
    """Bins that make a whole number of rounds."""
    expected = set(range(0, 16, 150 // math.gcd(90, 150))) - {0}
    found = set(map(int, answer))
    if found == expected:
        return None
    if found - expected:
        return f"bin {min(found - expected)} makes no whole number of rounds in 90 frames."
    return "a bin is missing: how many rounds does bin k make in 90 frames?"


def turns(answer):
    """A turn is no jump, but it is a kink; the period has neither."""
    pingpong, whole = map(float, answer)
    if not 0.3 < whole < 2.5:
        return "the second number is the seam of all 150 frames of motion, of order 2."
    if pingpong < 1.5 * whole:
        return "velocity turns round at once at the ends; take order 2, and 150 frames in all."
    return None


def fits_wholly(answer):
    """Only bins that fit are left, and the motion is the same after 100 frames, in all orders."""
    if answer.ndim != 4 or len(answer) != 16:
        return "the answer is a spectral volume of 16 bins; bins that are removed are 0."
    power = answer.abs().square().mean((1, 2, 3))
    if spectral_to_motion(answer, num_frames=150).std() == 0:
        return "nothing moves; some bins fit and may stay."
    for order in (0, 1, 2):
        gap = loop_gap(answer, num_frames=150, loop_frames=100, orders=(order,))
        if gap.abs().max() > 1e-4 * power.sum().sqrt() * 16:
            return "after 100 frames the motion is not what it was; some bin does not fit."
    if (power[1:] > 0).sum() < 5:
        return "a bin that fits is missing."
    return None


CHECKS = {"1": fits, "2": turns, "3": fits_wholly}
