"""Bicubic warping of the second frame and its gradient, and the data term for the iterations.

rho(u) = I1(x + u0) + <grad I1(x + u0), u - u0> - I0 is linear in u (Zach et al. 2007, equation 13; Sanchez et al.
2013, equation 8): a warp stores its constant part, grad I1(x + u0) and 1 / |grad I1(x + u0)|^2.

The flow is smooth, so most neighbouring pixels sample neighbouring pixels of the second frame. A row is cut into runs.
Within a run the displacements, in whole pixels, take at most two neighbouring values along each axis. There the 4x4
weights of each pixel are placed in a 5x5 window at one common displacement, and all loads are contiguous. Other pixels
are sampled one by one.
"""

from __future__ import annotations

import numpy as np

from flow_cache.methods.tvl1.compile import kernel, row, row_kernel
from flow_cache.methods.tvl1.layout import DATA, U1, U2
from flow_cache.methods.tvl1.parameters import BORDER

BLOCK = 16  # pixels that are added to a run together
# smallest |grad|^2 to divide by; smaller ones count as this, so that no step is longer than 0.05 px
TINY_GRADIENT = np.finfo(np.float32).eps


@row_kernel
def _cells(n, first, step, last, u, cells, fractions, displacements):
    """Split positions first + x * step + u into cell and fraction; far outside, only the border is sampled."""
    for x in range(np.int32(n)):
        position = np.float32(np.int32(x) * step + first) + u[x]
        near = position if position > np.float32(-3) else np.float32(-3)
        near = near if near < last else last
        floor = np.floor(near)
        fractions[x] = near - floor
        cells[x] = np.int32(floor)
        displacements[x] = np.int32(floor) - np.int32(np.int32(x) * step)


@row_kernel
def _weights(t, a):
    """Return the weights of Keys' cubic with slope a for the cells -1, 0, 1, 2 at fraction t; their sum is 1."""
    one, two, three = np.float32(1), np.float32(2), np.float32(3)
    r = one - t
    w0 = a * t * r * r
    w3 = a * r * t * t
    w1 = ((a + two) * t - (a + three)) * t * t + one
    w2 = one - w0 - w1 - w3
    return w0, w1, w2, w3


@row_kernel
def _window_row(k0, k1, k2, k3, k4, x, pixels):
    """Return the weighted sum of five pixels from x on."""
    return k0 * pixels[x] + k1 * pixels[x + 1] + k2 * pixels[x + 2] + k3 * pixels[x + 3] + k4 * pixels[x + 4]


@row_kernel
def _warp_run(
    n, dx, dy, base_x, base_y, tx, ty, a,
    i0, i1, i2, i3, i4, x0, x1, x2, x3, x4, y0, y1, y2, y3, y4,
    u1, u2, before, grad_x, grad_y, rho_c, inverse,
):  # fmt: skip
    """Compute the data term of a run; i, x and y are five rows each of the grey, d/dx and d/dy planes."""
    zero = np.float32(0)
    for x in range(n):
        w0, w1, w2, w3 = _weights(tx[x], a)
        far = dx[x] > base_x
        k0 = zero if far else w0
        k1 = w0 if far else w1
        k2 = w1 if far else w2
        k3 = w2 if far else w3
        k4 = w3 if far else zero
        v0, v1, v2, v3 = _weights(ty[x], a)
        low = dy[x] > base_y
        l0 = zero if low else v0
        l1 = v0 if low else v1
        l2 = v1 if low else v2
        l3 = v2 if low else v3
        l4 = v3 if low else zero
        grey = (
            l0 * _window_row(k0, k1, k2, k3, k4, x, i0)
            + l1 * _window_row(k0, k1, k2, k3, k4, x, i1)
            + l2 * _window_row(k0, k1, k2, k3, k4, x, i2)
            + l3 * _window_row(k0, k1, k2, k3, k4, x, i3)
            + l4 * _window_row(k0, k1, k2, k3, k4, x, i4)
        )
        gx = (
            l0 * _window_row(k0, k1, k2, k3, k4, x, x0)
            + l1 * _window_row(k0, k1, k2, k3, k4, x, x1)
            + l2 * _window_row(k0, k1, k2, k3, k4, x, x2)
            + l3 * _window_row(k0, k1, k2, k3, k4, x, x3)
            + l4 * _window_row(k0, k1, k2, k3, k4, x, x4)
        )
        gy = (
            l0 * _window_row(k0, k1, k2, k3, k4, x, y0)
            + l1 * _window_row(k0, k1, k2, k3, k4, x, y1)
            + l2 * _window_row(k0, k1, k2, k3, k4, x, y2)
            + l3 * _window_row(k0, k1, k2, k3, k4, x, y3)
            + l4 * _window_row(k0, k1, k2, k3, k4, x, y4)
        )
        square = gx * gx + gy * gy
        square = square if square > TINY_GRADIENT else TINY_GRADIENT
        grad_x[x] = gx
        grad_y[x] = gy
        rho_c[x] = grey - gx * u1[x] - gy * u2[x] - before[x]
        inverse[x] = np.float32(1) / square


@row_kernel
def _sample(memory, p, stride, w0, w1, w2, w3, v0, v1, v2, v3):
    """Return the weighted sum of 4x4 pixels, the upper left one at index p."""
    q, r, s = p + stride, p + 2 * stride, p + 3 * stride
    first = (w0 * memory[p] + w1 * memory[p + 1]) + (w2 * memory[p + 2] + w3 * memory[p + 3])
    second = (w0 * memory[q] + w1 * memory[q + 1]) + (w2 * memory[q + 2] + w3 * memory[q + 3])
    third = (w0 * memory[r] + w1 * memory[r + 1]) + (w2 * memory[r + 2] + w3 * memory[r + 3])
    fourth = (w0 * memory[s] + w1 * memory[s + 1]) + (w2 * memory[s + 2] + w3 * memory[s + 3])
    return (v0 * first + v1 * second) + (v2 * third + v3 * fourth)


@row_kernel
def _range(n, values):
    """Return the smallest and the largest value."""
    low, high = values[0], values[0]
    for k in range(n):
        value = values[k]
        low = value if value < low else low
        high = value if value > high else high
    return low, high


@row_kernel
def _warp_pixel(memory, corner, stride, plane, tx, ty, a):
    """Sample the three planes of a level for one pixel."""
    w0, w1, w2, w3 = _weights(tx, a)
    v0, v1, v2, v3 = _weights(ty, a)
    grey = _sample(memory, corner, stride, w0, w1, w2, w3, v0, v1, v2, v3)
    gx = _sample(memory, corner + plane, stride, w0, w1, w2, w3, v0, v1, v2, v3)
    gy = _sample(memory, corner + 2 * plane, stride, w0, w1, w2, w3, v0, v1, v2, v3)
    return grey, gx, gy


@kernel
def warp(first, second, state, start, pitch, stride, height, width, a, floats, ints):
    """Warp the planes of `second` by the flow in `state`, and store the data term in `state`.

    Args:
        first: memory of the first frame's level, see `pyramid.Level`.
        second: memory of the second frame's level.
        state: flat float32 array; row y of its plane i begins at start + y * pitch + i * stride, see `layout`.
        start, pitch, stride: see `layout.Layout`.
        height: rows of the level.
        width: pixels in a row.
        a: slope of the cubic, float32.
        floats: scratch, float32, twice the width.
        ints: scratch, int32, four times the width.
    """
    wide = width + 2 * BORDER
    plane = (height + 2 * BORDER) * wide
    tx, ty = row(floats, 0, width), row(floats, width, width)
    cx, cy = row(ints, 0, width), row(ints, width, width)
    dx, dy = row(ints, 2 * width, width), row(ints, 3 * width, width)
    for y in range(height):
        base = start + y * pitch
        u1, u2 = row(state, base + U1 * stride, width), row(state, base + U2 * stride, width)
        _cells(width, np.int32(0), np.int32(1), np.float32(width + 1), u1, cx, tx, dx)
        _cells(width, np.int32(y), np.int32(0), np.float32(height + 1), u2, cy, ty, dy)
        x = 0
        while x < width:
            # add blocks to the run while its displacements take at most two neighbouring values
            end = x
            low_x, high_x, low_y, high_y = dx[x], dx[x], dy[x], dy[x]
            while end < width:
                n = min(BLOCK, width - end)
                least_x, most_x = _range(n, row(ints, 2 * width + end, n))
                least_y, most_y = _range(n, row(ints, 3 * width + end, n))
                least_x, most_x = min(least_x, low_x), max(most_x, high_x)
                least_y, most_y = min(least_y, low_y), max(most_y, high_y)
                if most_x - least_x > 1 or most_y - least_y > 1:
                    break
                low_x, high_x, low_y, high_y = least_x, most_x, least_y, most_y
                end += n
            data = base + DATA * stride
            if end > x:
                n = end - x
                # upper left pixel of the window; its last row and column have weight 0 if all displacements are equal
                corner = (BORDER - 1 + low_y) * wide + BORDER - 1 + x + low_x
                m = n + 4
                _warp_run(
                    n, row(ints, 2 * width + x, n), row(ints, 3 * width + x, n), low_x, low_y,
                    row(floats, x, n), row(floats, width + x, n), a,
                    row(second, corner, m), row(second, corner + wide, m), row(second, corner + 2 * wide, m),
                    row(second, corner + 3 * wide, m), row(second, corner + 4 * wide, m),
                    row(second, corner + plane, m), row(second, corner + plane + wide, m),
                    row(second, corner + plane + 2 * wide, m), row(second, corner + plane + 3 * wide, m),
                    row(second, corner + plane + 4 * wide, m),
                    row(second, corner + 2 * plane, m), row(second, corner + 2 * plane + wide, m),
                    row(second, corner + 2 * plane + 2 * wide, m), row(second, corner + 2 * plane + 3 * wide, m),
                    row(second, corner + 2 * plane + 4 * wide, m),
                    row(state, base + U1 * stride + x, n), row(state, base + U2 * stride + x, n),
                    row(first, (y + BORDER) * wide + BORDER + x, n),
                    row(state, data + x, n), row(state, data + stride + x, n),
                    row(state, data + 2 * stride + x, n), row(state, data + 3 * stride + x, n),
                )  # fmt: skip
                x = end
            else:
                for k in range(x, min(x + BLOCK, width)):
                    corner = (BORDER - 1 + cy[k]) * wide + BORDER - 1 + cx[k]
                    grey, gx, gy = _warp_pixel(second, corner, wide, plane, tx[k], ty[k], a)
                    square = max(gx * gx + gy * gy, TINY_GRADIENT)
                    state[data + k] = gx
                    state[data + stride + k] = gy
                    before = first[(y + BORDER) * wide + BORDER + k]
                    state[data + 2 * stride + k] = grey - gx * u1[k] - gy * u2[k] - before
                    state[data + 3 * stride + k] = np.float32(1) / square
                x = min(x + BLOCK, width)
