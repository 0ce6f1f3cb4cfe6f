"""Checks of lesson 14."""

import torch

from exercises import number
from gidlite.data import Example, flip


def mirrored(answer):
    """The same as the package's augmentation."""
    given, found = answer
    if found is ...:
        return "put your answer in place of the dots."
    photo, reliable = torch.zeros(3, 2, 2), torch.ones(given.shape[-2:], dtype=torch.bool)
    expected = flip(Example(photo, given, reliable)).spectral
    if found.shape != expected.shape:
        return f"its shape is {tuple(found.shape)}, not {tuple(expected.shape)}."
    if torch.allclose(found[:, 1], expected[:, 1]) and torch.allclose(found[:, 0], -expected[:, 0]):
        return "what moved to the right must move to the left: look at the sign of dx."
    if torch.allclose(found, given):
        return "this is the volume as it was."
    return None if torch.allclose(found, expected) else "columns must be mirrored, and dx alone."


def starts(answer):
    """Windows of 150 frames that lie on one side of the cut."""
    count = int(answer)
    fitting = [s for s in range(0, 400, 10) if s + 149 < 400 and not s < 250 <= s + 149]
    if count == len(fitting):
        return None
    if count == len(range(0, 251, 10)):
        return "so many fit into 400 frames; some of them run into the cut."
    return "list the starts from 0 to 250; which windows have all 150 frames on one side?"


CHECKS = {
    "1": starts,
    "2": mirrored,
    "3": number(64.512 / 1.5, rel=0.01, hint="core seconds in a week, over those of one round."),
}
