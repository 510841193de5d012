"""Memory layout of the state that the iterations work on.

The state of a level is one flat float32 array of height + 1 records. Record y + 1 belongs to row y of the image and
holds ten rows, one after the other: the unknowns u1 u2 p11 p12 p21 p22, then the data term. So all that belongs to a
row of the image passes through the cache together. Each row takes `stride` floats, including one cache line before its
first pixel.

The value before the first pixel of a dual variable is 0, since its divergence reads it; record 0 is the row above the
image, for the same reason. The last pixel of u1 and u2 is repeated once, so that the forward difference there is 0.
Rows are computed up to the end of a cache line. Beyond the width theta and the data term are 0, so nothing changes
there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_cache.methods.tvl1.compile import LANES, aligned, round_up

U1, U2, P11, P12, P21, P22 = range(6)
UNKNOWNS = 6
GRAD_X, GRAD_Y, RHO_C, INVERSE = range(6, 10)
DATA = GRAD_X
ROWS = 10


@dataclass(frozen=True)
class Layout:
    """Sizes and strides of a level's state, in floats.

    Attributes:
        height: rows of the level.
        width: pixels in a row.
    """

    height: int
    width: int

    @property
    def padded(self) -> int:
        """Pixels of a row that a row kernel computes."""
        return round_up(self.width)

    @property
    def stride(self) -> int:
        """Floats from one of a record's rows to the next."""
        stride = self.padded + LANES
        # a multiple of 512 would map all rows to the same few sets of the cache
        return stride + LANES if stride % 512 == 0 else stride

    @property
    def pitch(self) -> int:
        """Floats from one record to the next."""
        return ROWS * self.stride

    @property
    def start(self) -> int:
        """Index of u1's first pixel."""
        return self.pitch + LANES

    @property
    def state_size(self) -> int:
        """Floats in the state, with one cache line after the last row for its right neighbour."""
        return (self.height + 1) * self.pitch + LANES

    @property
    def backup_size(self) -> int:
        """Floats in a copy of the unknowns."""
        return self.height * UNKNOWNS * self.stride

    def flow(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a view (2, H, W) of u1 and u2 in a state."""
        records = state[self.pitch : (self.height + 1) * self.pitch].reshape(self.height, ROWS, self.stride)
        return records[:, :2, LANES : LANES + self.width].transpose(1, 0, 2)

    def theta_row(self, theta: float) -> NDArray[np.float32]:
        """Return theta for each computed pixel of a row, 0 beyond the width."""
        thetas = aligned(self.padded)
        thetas[: self.width] = theta
        return thetas
