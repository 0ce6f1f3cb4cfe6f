"""Checks of lesson 10."""

from gidlite.loops import loop_gap


def each_costs(answer):
    """More equations leave less, and never more than all."""
    if len(answer) != 3:
        return "three numbers are asked for: position, and velocity, and acceleration."
    first, second, third = map(float, answer)
    if first > 0.999:
        return "the first is 1: pass keep_amplitude=False, or the amplitude is brought back."
    if not first > second > third > 0.3:
        return "each further equation must cost something; are orders (0,), (0, 1), (0, 1, 2)?"
    return None


def half_closed(answer):
    """The left half is a loop, the right one is not."""
    if answer.ndim != 4 or answer.shape[:2] != (16, 2):
        return "the answer is a whole spectral volume, as wide as free."
    gap = loop_gap(answer, num_frames=150, loop_frames=75)[0].norm(dim=0)
    left, right = gap.tensor_split(2, dim=-1)
    if left.max() > 1e-3:
        return "the left half does not come back after 75 frames."
    if right.max() < 1e-2:
        return "the right half is a loop, too; leave it as it is."
    return None


def mirrored(answer):
    """After half a period, a bin has turned by k halves of a round."""
    found = set(map(int, answer))
    wrong = {k for k in range(1, 16) if (k in found) != bool(k & 1)}
    if not wrong and found <= set(range(1, 16)):
        return None
    return "by which angle has bin k turned after half a period? F must have changed its sign."


CHECKS = {"1": each_costs, "2": half_closed, "3": mirrored}
