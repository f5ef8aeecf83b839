"""Notices a discriminator that no longer teaches the generator anything."""

from __future__ import annotations

from maptile2sat.errors import TrainingError

PATIENCE = 500
"""Steps that it must last."""

SMOOTHING = 0.99
"""Decay per step of the means that are looked at; one lucky batch decides nothing."""

WON = 0.005
"""Loss, as a share of that of guessing, below which it is always right."""

LOST = 0.001
"""Distance from the loss of guessing, as a share of it, below which it does nothing but guess."""


class CollapseError(TrainingError):
    """The discriminator has collapsed; what was saved since it began is of no use."""


class Watch:
    """Follows the discriminator's loss from step to step.

    It has collapsed when for `PATIENCE` steps it was always right, which leaves the generator
    without a gradient that means anything, or did nothing but guess. A resumed run watches anew.

    Args:
        chance: The loss of guessing.
        patience: Steps.

    Attributes:
        since: Step before which it was last well, if it seems to be collapsing.
    """

    def __init__(self, chance: float, patience: int = PATIENCE) -> None:
        self.chance, self.patience = chance, patience
        self.loss, self.distance = 1.0, 1.0
        self.since: int | None = None

    def add(self, step: int, loss: float) -> None:
        """Take the loss of `step`.

        Raises:
            CollapseError: If the discriminator has collapsed.
        """
        share = loss / self.chance
        self.loss += (1.0 - SMOOTHING) * (share - self.loss)
        self.distance += (1.0 - SMOOTHING) * (abs(share - 1.0) - self.distance)
        if self.loss >= WON and self.distance >= LOST:
            self.since = None
            return
        if self.since is None:
            self.since = step - 1
        if step - self.since >= self.patience:
            how = "every" if self.loss < WON else "no"
            raise CollapseError(
                f"the discriminator has collapsed: for {step - self.since} steps, up to step "
                f"{step}, it told {how} generated image from a real one; start another run "
                "(--out) with another --learning-rate or --seed"
            )
