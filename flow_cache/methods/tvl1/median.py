"""A 3x3 or 5x5 median filter of float rows, in place, with the border repeated.

The 5x5 filter computes two rows at a time. Their windows share four rows. These are sorted in each column (lane x of a
vector is column x), then neighbouring columns are merged, and only values that can still be the median are kept.
Sorting compares and exchanges whole vectors, so there are no branches. Values that nothing reads are not computed.
"""

from __future__ import annotations

from flow_cache.methods.tvl1.compile import kernel, round_up, row, row_kernel

RING = 8  # copied rows kept in scratch, in a ring: 6 of them are read at a time
MARGIN = 2  # repeated pixels at each end of a copied row


@row_kernel
def _low(a, b):
    """Return the smaller number."""
    return a if a < b else b


@row_kernel
def _high(a, b):
    """Return the larger number."""
    return b if a < b else a


@row_kernel
def _sort4(n, a, b, c, d, s0, s1, s2, s3):
    """Sort the four values in each column of rows a to d into rows s0 (smallest) to s3."""
    for x in range(n):
        p, q = _low(a[x], b[x]), _high(a[x], b[x])
        r, s = _low(c[x], d[x]), _high(c[x], d[x])
        s0[x] = _low(p, r)
        s3[x] = _high(q, s)
        t, u = _high(p, r), _low(q, s)
        s1[x] = _low(t, u)
        s2[x] = _high(t, u)


@row_kernel
def _merge4(a0, a1, a2, a3, b0, b1, b2, b3):
    """Merge two sorted lists of four (Batcher's odd-even merge)."""
    a0, b0 = _low(a0, b0), _high(a0, b0)
    a2, b2 = _low(a2, b2), _high(a2, b2)
    a2, b0 = _low(a2, b0), _high(a2, b0)  # evens in order: a0 a2 b0 b2
    a1, b1 = _low(a1, b1), _high(a1, b1)
    a3, b3 = _low(a3, b3), _high(a3, b3)
    a3, b1 = _low(a3, b1), _high(a3, b1)  # odds in order: a1 a3 b1 b3
    a1, a2 = _low(a1, a2), _high(a1, a2)
    a3, b0 = _low(a3, b0), _high(a3, b0)
    b1, b2 = _low(b1, b2), _high(b1, b2)
    return a0, a1, a2, a3, b0, b1, b2, b3


@row_kernel
def _merge_columns(n, c0, c1, c2, c3, d0, d1, d2, d3, p0, p1, p2, p3, p4, p5, p6, p7):
    """Merge the sorted columns of rows c and d into rows p, eight values in each column."""
    for x in range(n):
        p0[x], p1[x], p2[x], p3[x], p4[x], p5[x], p6[x], p7[x] = _merge4(
            c0[x], c1[x], c2[x], c3[x], d0[x], d1[x], d2[x], d3[x]
        )


@row_kernel
def _median_of_six_and_five(g0, g1, g2, g3, g4, g5, a, b, c, d, e):
    """Return the median of six sorted and five unsorted numbers."""
    a, b = _low(a, b), _high(a, b)
    d, e = _low(d, e), _high(d, e)
    c, e = _low(c, e), _high(c, e)
    c, d = _low(c, d), _high(c, d)
    b, e = _low(b, e), _high(b, e)
    a, d = _low(a, d), _high(a, d)
    a, c = _low(a, c), _high(a, c)
    b, d = _low(b, d), _high(b, d)
    b, c = _low(b, c), _high(b, c)
    # the sixth smallest of both lists is the minimum over i of max(g[i], sorted[5 - i])
    left = _low(g5, _high(g4, a))
    middle = _low(_high(g3, b), _high(g2, c))
    right = _low(_high(g1, d), _high(g0, e))
    return _low(left, _low(middle, right))


@row_kernel
def _middle_six(z0, z1, z2, z3, z4, z5, z6, z7, z8, z9, z10, z11, z12, z13, z14, z15, c0, c1, c2, c3):
    """Return the middle six, sorted, of twenty numbers: two sorted lists of eight and one of four."""
    # Batcher's odd-even merge of the lists of eight; only ranks 3 to 12 are used
    z0, z8 = _low(z0, z8), _high(z0, z8)
    z1, z9 = _low(z1, z9), _high(z1, z9)
    z2, z10 = _low(z2, z10), _high(z2, z10)
    z3, z11 = _low(z3, z11), _high(z3, z11)
    z4, z12 = _low(z4, z12), _high(z4, z12)
    z5, z13 = _low(z5, z13), _high(z5, z13)
    z6, z14 = _low(z6, z14), _high(z6, z14)
    z7, z15 = _low(z7, z15), _high(z7, z15)
    z4, z8 = _low(z4, z8), _high(z4, z8)
    z5, z9 = _low(z5, z9), _high(z5, z9)
    z6, z10 = _low(z6, z10), _high(z6, z10)
    z7, z11 = _low(z7, z11), _high(z7, z11)
    z4 = _high(z2, z4)
    z3, z5 = _low(z3, z5), _high(z3, z5)
    z6, z8 = _low(z6, z8), _high(z6, z8)
    z7, z9 = _low(z7, z9), _high(z7, z9)
    z10, z12 = _low(z10, z12), _high(z10, z12)
    z11 = _low(z11, z13)
    z3, z4 = _low(z3, z4), _high(z3, z4)
    z5, z6 = _low(z5, z6), _high(z5, z6)
    z7, z8 = _low(z7, z8), _high(z7, z8)
    z9, z10 = _low(z9, z10), _high(z9, z10)
    z11, z12 = _low(z11, z12), _high(z11, z12)
    # drop the four smallest of z3..z6 and c; the four that are left are bitonic; sort them
    a, b, c, d = _high(z3, c3), _high(z4, c2), _high(z5, c1), _high(z6, c0)
    a, b, c, d = _sort_bitonic(a, b, c, d)
    # drop the four largest of these and z9..z12; z7, z8 and four bitonic values are left
    a, b, c, d = _sort_bitonic(_low(z9, d), _low(z10, c), _low(z11, b), _low(z12, a))
    # merge z7 <= z8 into the sorted four
    a, e = _low(a, z7), _high(a, z7)
    c, e = _low(c, e), _high(c, e)
    b, f = _low(b, z8), _high(b, z8)
    d, f = _low(d, f), _high(d, f)
    b, c = _low(b, c), _high(b, c)
    d, e = _low(d, e), _high(d, e)
    return a, b, c, d, e, f


@row_kernel
def _sort_bitonic(a, b, c, d):
    """Sort four numbers that rise, then fall (or fall, then rise)."""
    a, c = _low(a, c), _high(a, c)
    b, d = _low(b, d), _high(b, d)
    a, b = _low(a, b), _high(a, b)
    c, d = _low(c, d), _high(c, d)
    return a, b, c, d


@row_kernel
def _two_medians(
    n,
    p0, p1, p2, p3, p4, p5, p6, p7,
    q0, q1, q2, q3, q4, q5, q6, q7,
    c0, c1, c2, c3,
    a0, a1, a2, a3, a4,
    b0, b1, b2, b3, b4,
    upper, lower,
):  # fmt: skip
    """Compute the medians of two rows from merged columns p and q, column c, and the rows a and b at the ends."""
    for x in range(n):
        g0, g1, g2, g3, g4, g5 = _middle_six(
            p0[x], p1[x], p2[x], p3[x], p4[x], p5[x], p6[x], p7[x],
            q0[x], q1[x], q2[x], q3[x], q4[x], q5[x], q6[x], q7[x],
            c0[x], c1[x], c2[x], c3[x],
        )  # fmt: skip
        upper[x] = _median_of_six_and_five(g0, g1, g2, g3, g4, g5, a0[x], a1[x], a2[x], a3[x], a4[x])
        lower[x] = _median_of_six_and_five(g0, g1, g2, g3, g4, g5, b0[x], b1[x], b2[x], b3[x], b4[x])


@row_kernel
def _median_of_nine(n, a0, a1, a2, b0, b1, b2, c0, c1, c2, out):
    """Return the median of three sorted columns: that of the largest 0, the median 1 and the smallest 2."""
    for x in range(n):
        low = _high(_high(a0[x], b0[x]), c0[x])
        middle = _high(_low(a1[x], b1[x]), _low(_high(a1[x], b1[x]), c1[x]))
        high = _low(_low(a2[x], b2[x]), c2[x])
        low, middle = _low(low, middle), _high(low, middle)
        out[x] = _high(low, _low(middle, high))


@row_kernel
def _sort3(n, a, b, c, s0, s1, s2):
    """Sort the three values in each column of rows a to c into rows s0 (smallest) to s2."""
    for x in range(n):
        p, q = _low(a[x], b[x]), _high(a[x], b[x])
        s0[x] = _low(p, c[x])
        r = _high(p, c[x])
        s1[x] = _low(q, r)
        s2[x] = _high(q, r)


@row_kernel
def _copy(n, source, out):
    """Copy a row."""
    for x in range(n):
        out[x] = source[x]


def scratch_size(width: int) -> int:
    """Return the number of floats that `median_filter` needs as scratch."""
    return (RING + 13) * round_up(width + 2 * MARGIN)


@row_kernel
def _ring_row(y, height, wide):
    """Return where the copy of row y is in scratch; rows outside the plane are the nearest one inside."""
    return (min(max(y, 0), height - 1) % RING) * wide


@row_kernel
def _filter3(plane, start, stride, height, width, y, scratch, wide):
    """Filter row y by 3x3 windows."""
    above, here, below = (
        _ring_row(y - 1, height, wide),
        _ring_row(y, height, wide),
        _ring_row(y + 1, height, wide),
    )
    n = width + 2
    s = RING * wide
    _sort3(
        n, row(scratch, above + 1, n), row(scratch, here + 1, n), row(scratch, below + 1, n),
        row(scratch, s, n), row(scratch, s + wide, n), row(scratch, s + 2 * wide, n),
    )  # fmt: skip
    t, u = s + wide, s + 2 * wide
    _median_of_nine(
        width,
        row(scratch, s, n), row(scratch, t, n), row(scratch, u, n),
        row(scratch, s + 1, n), row(scratch, t + 1, n), row(scratch, u + 1, n),
        row(scratch, s + 2, n), row(scratch, t + 2, n), row(scratch, u + 2, n),
        row(plane, start + y * stride, width),
    )  # fmt: skip


@row_kernel
def _filter5(plane, start, stride, height, width, y, scratch, wide):
    """Filter rows y and y + 1 (only y if it is the last one) by 5x5 windows."""
    a, b = _ring_row(y - 2, height, wide), _ring_row(y + 3, height, wide)
    n = width + 2 * MARGIN
    c = RING * wide
    p = c + 4 * wide
    _sort4(
        n,
        row(scratch, _ring_row(y - 1, height, wide), n), row(scratch, _ring_row(y, height, wide), n),
        row(scratch, _ring_row(y + 1, height, wide), n), row(scratch, _ring_row(y + 2, height, wide), n),
        row(scratch, c, n), row(scratch, c + wide, n), row(scratch, c + 2 * wide, n), row(scratch, c + 3 * wide, n),
    )  # fmt: skip
    _merge_columns(
        n - 1,
        row(scratch, c, n), row(scratch, c + wide, n), row(scratch, c + 2 * wide, n), row(scratch, c + 3 * wide, n),
        row(scratch, c + 1, n), row(scratch, c + wide + 1, n),
        row(scratch, c + 2 * wide + 1, n), row(scratch, c + 3 * wide + 1, n),
        row(scratch, p, n), row(scratch, p + wide, n), row(scratch, p + 2 * wide, n), row(scratch, p + 3 * wide, n),
        row(scratch, p + 4 * wide, n), row(scratch, p + 5 * wide, n),
        row(scratch, p + 6 * wide, n), row(scratch, p + 7 * wide, n),
    )  # fmt: skip
    # without a second row, its result goes to a row of scratch that nothing reads
    upper = row(plane, start + y * stride, width)
    lower = (
        row(plane, start + (y + 1) * stride, width) if y + 1 < height else row(scratch, p + 8 * wide, width)
    )
    q = p + 2
    d = c + 4
    _two_medians(
        width,
        row(scratch, p, n), row(scratch, p + wide, n), row(scratch, p + 2 * wide, n), row(scratch, p + 3 * wide, n),
        row(scratch, p + 4 * wide, n), row(scratch, p + 5 * wide, n),
        row(scratch, p + 6 * wide, n), row(scratch, p + 7 * wide, n),
        row(scratch, q, n), row(scratch, q + wide, n), row(scratch, q + 2 * wide, n), row(scratch, q + 3 * wide, n),
        row(scratch, q + 4 * wide, n), row(scratch, q + 5 * wide, n),
        row(scratch, q + 6 * wide, n), row(scratch, q + 7 * wide, n),
        row(scratch, d, n), row(scratch, d + wide, n), row(scratch, d + 2 * wide, n), row(scratch, d + 3 * wide, n),
        row(scratch, a, n), row(scratch, a + 1, n), row(scratch, a + 2, n), row(scratch, a + 3, n),
        row(scratch, a + 4, n),
        row(scratch, b, n), row(scratch, b + 1, n), row(scratch, b + 2, n), row(scratch, b + 3, n),
        row(scratch, b + 4, n),
        upper, lower,
    )  # fmt: skip


@kernel
def median_filter(plane, start, stride, height, width, size, scratch):
    """Filter a plane in place by the median over windows of `size` x `size` pixels.

    Args:
        plane: flat float32 array; row y of the plane begins at start + y * stride.
        start: index of the plane's first pixel.
        stride: floats from one row to the next.
        height: rows of the plane.
        width: pixels in a row.
        size: 3 or 5.
        scratch: flat float32 array of `scratch_size(width)`.
    """
    wide = (width + 2 * MARGIN + 15) // 16 * 16
    copied = 0
    for y in range(0, height, 2):
        while copied < min(y + 4, height):  # row y + 3 is the last one in the windows of rows y and y + 1
            copy = (copied % RING) * wide
            _copy(width, row(plane, start + copied * stride, width), row(scratch, copy + MARGIN, width))
            for k in range(MARGIN):
                scratch[copy + k] = scratch[copy + MARGIN]
                scratch[copy + MARGIN + width + k] = scratch[copy + MARGIN + width - 1]
            copied += 1
        if size == 5:
            _filter5(plane, start, stride, height, width, y, scratch, wide)
        else:
            _filter3(plane, start, stride, height, width, y, scratch, wide)
            if y + 1 < height:
                _filter3(plane, start, stride, height, width, y + 1, scratch, wide)
