"""Every pass of a deck is complete."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgisam.train.deck import Deck


def test_with_equal_weights_a_pass_deals_each_item_once_and_the_next_in_another_order() -> None:
    deck = Deck([2.0] * 50, seed=3)
    first, second = ([deck[p] for p in range(start, start + 50)] for start in (0, 50))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=40), st.integers(0, 5))
def test_a_pass_deals_each_item_as_often_as_its_weight_asks_give_or_take_one(weights: list[float], turn: int) -> None:
    deck = Deck(weights, seed=1)
    dealt = Counter(deck[p] for p in range(turn * len(deck), (turn + 1) * len(deck)))
    assert sum(dealt.values()) == len(weights)
    for item, weight in enumerate(weights):
        assert abs(dealt[item] - len(weights) * weight / sum(weights)) < 1.0 + 1e-6


def test_a_position_gives_the_same_item_whatever_was_asked_before() -> None:
    asked_in_order, asked_at_once = Deck([1.0, 2.0, 3.0], seed=7), Deck([1.0, 2.0, 3.0], seed=7)
    in_order = [asked_in_order[p] for p in range(20)]
    assert [asked_at_once[p] for p in reversed(range(20))] == in_order[::-1]


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [1.0, -1.0], [float("nan")]])
def test_a_deck_needs_items_that_can_be_dealt(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected items with positive weights"):
        Deck(weights, seed=0)
