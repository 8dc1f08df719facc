"""An endless deal of items in which every pass is complete: who comes next follows from a position alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Deck:
    """Deals items without end. Position p always gives the same item, so that any process can look up any draw.

    One pass deals as many cards as there are items, each item as often as its weight asks, rounded up or down by chance
    (systematic sampling); with equal weights each item exactly once. Each pass has an order of its own.
    """

    def __init__(self, weights: Sequence[float] | NDArray[np.floating], seed: int) -> None:
        """Shuffle nothing yet.

        Args:
            weights: one per item, positive; only their proportions count.
            seed: of every pass.

        Raises:
            ValueError: without items, or where a weight is not positive.
        """
        given = np.asarray(weights, dtype=np.float64)
        if given.size == 0 or not (given > 0).all():
            raise ValueError(f"expected items with positive weights; got {given.size}, least {given.min(initial=1.0)}")
        self._expected = given * (given.size / given.sum())
        self._seed = seed
        self._pass, self._order = -1, np.zeros(0, dtype=np.intp)

    def __len__(self) -> int:
        """Cards in one pass."""
        return len(self._expected)

    def __getitem__(self, position: int) -> int:
        """The item at a position, from 0."""
        number, card = divmod(position, len(self))
        if number != self._pass:
            self._pass, self._order = number, self._dealt(number)
        return int(self._order[card])

    def _dealt(self, number: int) -> NDArray[np.intp]:
        """All cards of one pass, in its order."""
        random = np.random.default_rng((self._seed, number))
        reached = np.floor(np.cumsum(self._expected) + random.random() + 1e-9)
        reached[-1] = len(self)
        counts = np.diff(reached, prepend=0).astype(np.intp)
        return random.permutation(np.repeat(np.arange(len(self)), counts))
