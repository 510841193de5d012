"""The iterations of TV-L1: a thresholding step and a projection-free dual step, row by row, several at a time.

With v = u - clamp(rho(u) / |g|^2, -lambda theta, lambda theta) g, g = grad I1(x + u0), an iteration is

    u <- v + theta div p                                        (primal; Zach et al. 2007, equations 11 and 15)
    p <- (p + tau / theta grad u) / (1 + tau / theta |grad u|)  (dual; equation 12, Chambolle 2004)

with forward differences for grad and backward differences for div. The dual step of row y - 1 follows the primal step
of row y, since it needs only u of both rows. So iteration t + 1 can follow iteration t one row behind, in place: a
*wave* of several iterations passes over the state once, while the rows that they work on are in the cache.

Both steps loop over blocks of LANES pixels. A block is a whole number of vectors on any processor, and no pixels are
left over at the end of a row. One loop for both steps was no faster, and slower on narrow levels.

OpenCV decides after every iteration whether to stop, and so does `iterate`. It predicts how many iterations are left
and makes no wave longer than that. If an iteration inside a wave turns out to be the last, the state is restored and
only the iterations up to that one are done again.
"""

from __future__ import annotations

import math

import numpy as np

from flow_cache.methods.tvl1.compile import LANES, kernel, row, row_kernel
from flow_cache.methods.tvl1.layout import DATA, P11, P12, P21, P22, ROWS, U1, U2, UNKNOWNS

TINY = np.float32(1e-30)  # added to squares, so that no root is 0; far below any square that matters
LONGEST_WAVE = 12  # iterations
FIRST_WAVE = 2  # one iteration is hardly ever enough
SLOWEST_DECAY = 1.5  # the change falls at least as iteration ** -1.5; slower decay is seen, but does not last


@row_kernel
def _primal_row(
    n, u1, u2, grad_x, grad_y, rho_c, inverse, p11, before11, p12, above12, p21, before21, p22, above22,
    theta, limit, sums,
):  # fmt: skip
    """Do the primal step of a row and return the sum of squared changes; `sums` is scratch, LANES floats."""
    for k in range(LANES):
        sums[k] = 0
    for block in range(n // LANES):
        for k in range(np.uintp(LANES)):
            x = np.uintp(block) * np.uintp(LANES) + k
            a, b, gx, gy = u1[x], u2[x], grad_x[x], grad_y[x]
            d = (rho_c[x] + gx * a + gy * b) * inverse[x]
            d = limit if d > limit else d
            d = -limit if d < -limit else d
            new1 = a - d * gx + theta[x] * ((p11[x] - before11[x]) + (p12[x] - above12[x]))
            new2 = b - d * gy + theta[x] * ((p21[x] - before21[x]) + (p22[x] - above22[x]))
            u1[x] = new1
            u2[x] = new2
            sums[k] += (new1 - a) * (new1 - a) + (new2 - b) * (new2 - b)
    total = np.float32(0)
    for k in range(LANES):
        total += sums[k]
    return total


@row_kernel
def _scaled_root(square, scale):
    """Return scale * sqrt(square), by an estimate of 1 / sqrt(square) and one Newton step."""
    square += TINY
    estimate = np.float32(1) / np.sqrt(square)
    root = square * estimate
    return root * (np.float32(-0.5) * scale) * (root * estimate - np.float32(3))


@row_kernel
def _dual_row(n, u1, right1, below1, u2, right2, below2, p11, p12, p21, p22, taut):
    """Do the dual step of a row."""
    one = np.float32(1)
    for block in range(n // LANES):
        for k in range(np.uintp(LANES)):
            x = np.uintp(block) * np.uintp(LANES) + k
            x1, y1 = right1[x] - u1[x], below1[x] - u1[x]
            x2, y2 = right2[x] - u2[x], below2[x] - u2[x]
            norm1 = one + _scaled_root(x1 * x1 + y1 * y1, taut)
            norm2 = one + _scaled_root(x2 * x2 + y2 * y2, taut)
            both = one / (norm1 * norm2)  # one division for two quotients
            p11[x] = (p11[x] + taut * x1) * (both * norm2)
            p12[x] = (p12[x] + taut * y1) * (both * norm2)
            p21[x] = (p21[x] + taut * x2) * (both * norm1)
            p22[x] = (p22[x] + taut * y2) * (both * norm1)


@row_kernel
def _copy_row(n, source, target):
    """Copy a row."""
    for x in range(n):
        target[x] = source[x]


@kernel
def wave(state, backup, keep, theta, height, width, padded, stride, limit, taut, count, changes):
    """Do `count` iterations in one pass over the state.

    Args:
        state: flat float32 array, see `layout`.
        backup: flat float32 array of `Layout.backup_size`; any array if `keep` is False.
        keep: copy the unknowns to `backup` before they change.
        theta: theta for each computed pixel of a row, 0 beyond the width (`Layout.theta_row`).
        height: rows of the level.
        width: pixels in a row.
        padded: pixels that are computed in a row (`Layout.padded`).
        stride: floats from one of a record's rows to the next (`Layout.stride`).
        limit: lambda * theta.
        taut: tau / theta.
        count: iterations.
        changes: output, float64: changes[t] is the sum of squared changes of u in iteration t.
    """
    pitch = ROWS * stride
    n = padded
    sums = np.empty(LANES, np.float32)
    for t in range(count):
        changes[t] = 0.0
    for lead in range(height + count):
        if keep and lead < height:
            size = UNKNOWNS * stride
            _copy_row(size, row(state, (lead + 1) * pitch, size), row(backup, lead * size, size))
        for t in range(max(0, lead - height), min(count, lead + 1)):
            y = lead - t
            here = (y + 1) * pitch + LANES
            above = here - pitch
            u1, u2 = here + U1 * stride, here + U2 * stride
            if y < height:
                changes[t] += _primal_row(
                    n, row(state, u1, n), row(state, u2, n),
                    row(state, here + DATA * stride, n), row(state, here + (DATA + 1) * stride, n),
                    row(state, here + (DATA + 2) * stride, n), row(state, here + (DATA + 3) * stride, n),
                    row(state, here + P11 * stride, n), row(state, here + P11 * stride - 1, n),
                    row(state, here + P12 * stride, n), row(state, above + P12 * stride, n),
                    row(state, here + P21 * stride, n), row(state, here + P21 * stride - 1, n),
                    row(state, here + P22 * stride, n), row(state, above + P22 * stride, n),
                    theta, limit, sums,
                )  # fmt: skip
                state[u1 + width] = state[u1 + width - 1]
                state[u2 + width] = state[u2 + width - 1]
            if y > 0:
                above1, above2 = above + U1 * stride, above + U2 * stride
                below1, below2 = (u1, u2) if y < height else (above1, above2)
                _dual_row(
                    n, row(state, above1, n), row(state, above1 + 1, n), row(state, below1, n),
                    row(state, above2, n), row(state, above2 + 1, n), row(state, below2, n),
                    row(state, above + P11 * stride, n), row(state, above + P12 * stride, n),
                    row(state, above + P21 * stride, n), row(state, above + P22 * stride, n), taut,
                )  # fmt: skip


@kernel
def clear(state, height, width, padded, stride):
    """Set the unknowns, the record above them, and all pixels that are computed beyond the width to 0."""
    pitch = ROWS * stride
    state[:pitch] = 0
    for y in range(1, height + 1):
        state[y * pitch : y * pitch + UNKNOWNS * stride] = 0
        for i in range(UNKNOWNS, ROWS):
            line = y * pitch + i * stride + LANES
            state[line + width : line + padded] = 0


@kernel
def repeat_edge(state, height, width, stride):
    """Repeat the last pixel of u1 and u2, so that their forward difference there is 0."""
    for y in range(height):
        last = (y + 1) * ROWS * stride + LANES + width - 1
        state[last + U1 * stride + 1] = state[last + U1 * stride]
        state[last + U2 * stride + 1] = state[last + U2 * stride]


@kernel
def restore(state, backup, height, stride):
    """Restore the unknowns from the copy that `wave` has kept."""
    size = UNKNOWNS * stride
    for y in range(height):
        _copy_row(size, row(backup, y * size, size), row(state, (y + 1) * ROWS * stride, size))


@kernel
def predict_left(history, done, threshold):
    """Predict how many more iterations the change needs to fall to the threshold; too few rather than too many.

    At first the change falls as a power of the iteration's number, at the end faster. The power is estimated from the
    last few iterations.

    Args:
        history: float64, the change of every iteration since the flow was last modified by a warp or a median filter.
        done: how many iterations that is.
        threshold: change to stop at; 0 = never.

    Returns:
        Iterations, from 1 to LONGEST_WAVE.
    """
    if threshold <= 0:
        return LONGEST_WAVE
    if done < FIRST_WAVE:
        return FIRST_WAVE
    lag = min(3, done - 1)
    fall = math.log(history[done - 1 - lag] / history[done - 1])
    power = max(SLOWEST_DECAY, fall / math.log(done / (done - lag)))
    left = done * ((history[done - 1] / threshold) ** (1 / power) - 1)
    return max(1, min(LONGEST_WAVE, math.ceil(left)))


@kernel
def iterate(state, backup, theta, height, width, padded, stride, limit, taut, threshold, most):
    """Iterate until the sum of squared changes is at most `threshold`, as OpenCV's CPU version does.

    Args:
        state, backup, theta, height, width, padded, stride, limit, taut: as in `wave`.
        threshold: sum of squared changes to stop at; 0 = do all iterations, `backup` is not used then.
        most: largest number of iterations.

    Returns:
        The number of iterations done and the last sum of squared changes.
    """
    repeat_edge(state, height, width, stride)
    history = np.empty(most + LONGEST_WAVE, np.float64)
    done = 0
    change = 0.0
    while done < most and (done == 0 or change > threshold or threshold <= 0):
        count = min(predict_left(history, done, threshold), most - done)
        keep = count > 1 and threshold > 0
        changes = history[done:]
        wave(state, backup, keep, theta, height, width, padded, stride, limit, taut, count, changes)
        last = 0 if keep else count - 1  # without a copy, no iteration can be taken back
        while last < count - 1 and changes[last] > threshold:
            last += 1
        if last < count - 1:
            restore(state, backup, height, stride)
            wave(state, backup, False, theta, height, width, padded, stride, limit, taut, last + 1, changes)
        done += last + 1
        change = history[done - 1]
    return done, change


@kernel
def iterate_cuda(state, backup, theta, height, width, padded, stride, limit, taut, threshold, most):
    """Iterate as `iterate` does, but test the change only when OpenCV's CUDA version does.

    It keeps a counter: the change at the last test, less `threshold` for each iteration since. It tests on an odd
    iteration, and only if the counter is below the threshold. So a second test comes late.
    """
    repeat_edge(state, height, width, stride)
    changes = np.empty(LONGEST_WAVE, np.float64)
    done = 0
    counter, change = 0.0, 0.0
    while done < most:
        count = 0
        test = False
        while count < min(LONGEST_WAVE, most - done) and not test:
            test = threshold > 0 and (done + count) % 2 == 1 and counter < threshold
            if not test:
                counter -= threshold
            count += 1
        wave(state, backup, False, theta, height, width, padded, stride, limit, taut, count, changes)
        done += count
        change = changes[count - 1]
        if test:
            if change <= threshold:
                break
            counter = change
    return done, change
