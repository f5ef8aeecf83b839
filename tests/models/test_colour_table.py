"""A map's colours and places are the map."""

from __future__ import annotations

import numpy as np
import pytest

from maptile2sat.models.colour_table import TABLE_ROWS, colour_table
from tests.support_render import Pixels


@pytest.mark.parametrize("colours", [1, 3, TABLE_ROWS, TABLE_ROWS + 1])
def test_table_gives_the_map_back(colours: int) -> None:
    rng = np.random.default_rng(colours)
    chosen = rng.choice(1 << 24, colours, replace=False)
    keys = np.concatenate([chosen, rng.choice(chosen, 90 * 80 - colours)]).reshape(90, 80)
    image: Pixels = np.stack([keys >> 16, keys >> 8 & 255, keys & 255], -1).astype(np.uint8)
    table = colour_table(image)
    np.testing.assert_array_equal(table.colours[table.places], image)
    assert len(table.colours) == -(-colours // TABLE_ROWS) * TABLE_ROWS
    assert table.places.max() == colours - 1


def test_places_follow_the_colours_not_their_order_of_appearance() -> None:
    """So that the table of a window is the same however it is turned."""
    image: Pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    first, second = colour_table(image), colour_table(np.ascontiguousarray(image[::-1, ::-1]))
    np.testing.assert_array_equal(first.colours, second.colours)
    np.testing.assert_array_equal(first.places[::-1, ::-1], second.places)
