"""Checks of lesson 04: why motion is drawn."""

import torch

from exercises import number

WINDS = torch.tensor([4.0, 16.0, 64.0])


def _stiller(answer):
    answer = torch.as_tensor(answer, dtype=torch.float32).flatten()
    if answer.shape != WINDS.shape:
        return f"there are {len(answer)} numbers, not 3."
    if not (answer > 0).all() or not (answer < 1).all():
        return "a mean of different winds moves less than they do, and never not at all."
    # Independent winds of one power: the power of a mean falls as 1 / n.
    if ((answer * WINDS.sqrt()).log().abs() < 0.4).all():
        return None
    return "the RMS of the mean falls too fast or too slowly; is it a root, and averaged first?"


def _fooled(answer):
    answer = float(answer)
    if not 0 <= answer <= 1:
        return "an area under the ROC curve lies between 0 and 1."
    if answer > 0.8:
        return "this is about what the right photos give; which features was it trained on?"
    if answer < 0.3:
        return "that is worse than guessing; score and truth may be swapped."
    return None


CHECKS = {
    "1": number(3 / 4 - 1 / 4, hint="weigh both films by how often they occur."),
    "2": _stiller,
    "3": _fooled,
}
