"""Checks of the exercises: one module a lesson, ``CHECKS`` by number.

A check takes an answer and returns ``None`` if it is right, else what to look at.
"""

import torch


def number(expected: float, *, rel: float = 0.02, hint: str):
    """Return a check of one number, right within a share ``rel`` of what is expected."""

    def check(answer):
        value = float(answer)
        if abs(value - expected) <= rel * abs(expected) + 1e-9:
            return None
        return f"{value:.4g} is too {'large' if value > expected else 'small'}: {hint}"

    return check


def tensor(expected: torch.Tensor, *, atol: float = 1e-4, rtol: float = 1e-3, hint: str):
    """Return a check of a tensor: shape first, then values."""

    def check(answer):
        answer = torch.as_tensor(answer)
        if answer.shape != expected.shape:
            return f"its shape is {tuple(answer.shape)}, not {tuple(expected.shape)}: {hint}"
        if torch.allclose(answer.to(expected.dtype), expected, atol=atol, rtol=rtol):
            return None
        return f"the values are off by up to {(answer - expected).abs().max():.2g}: {hint}"

    return check
