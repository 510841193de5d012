"""Where the planes of the iterations' state lie.

The state of a level is one flat float32 array of height + 1 records, one a row. Record y + 1 holds, one after the
other, ten rows: u1 u2 p11 p12 p21 p22 (the unknowns), then the data term. Each row is `stride` floats, a cache line
before its first pixel included, so that a whole record streams through the cache together.

Before the first pixel stands 0 for the dual variables (their divergence reads it), and record 0 is their row above
the image. After the last pixel of u1 and u2 its value is repeated, so that the forward difference there is 0. Rows
are computed up to the next whole cache line; there, theta and the data term are 0, so that nothing changes.
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
    """Strides of a level's state, in floats."""

    height: int
    width: int

    @property
    def padded(self) -> int:
        """Pixels that a row kernel computes."""
        return round_up(self.width)

    @property
    def stride(self) -> int:
        """Floats from one of a record's rows to the next."""
        stride = self.padded + LANES
        return stride + LANES if stride % 512 == 0 else stride  # else all rows would share a few cache sets

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
        """Floats in the state; the last row's right neighbour is in the line after it."""
        return (self.height + 1) * self.pitch + LANES

    @property
    def backup_size(self) -> int:
        """Floats in a copy of the unknowns."""
        return self.height * UNKNOWNS * self.stride

    def flow(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """View (2, H, W) of u1 and u2 in a state."""
        records = state[self.pitch : (self.height + 1) * self.pitch].reshape(self.height, ROWS, self.stride)
        return records[:, :2, LANES : LANES + self.width].transpose(1, 0, 2)

    def theta_row(self, theta: float) -> NDArray[np.float32]:
        """Return theta for each computed pixel: 0 beyond the width."""
        thetas = aligned(self.padded)
        thetas[: self.width] = theta
        return thetas
