"""Fuse the saved probabilities of two streams by simple rules: the baselines that a learned fusion has to beat.

- `product_rule` and `mean_rule` are the product and the sum rule of Kittler, Hatef, Duin and Matas, "On Combining
  Classifiers", IEEE TPAMI 20(3), 1998. They have nothing to fit.
- `WeightedFusion` first calibrates each stream by one temperature (Guo, Pleiss, Sun and Weinberger, "On Calibration of
  Modern Neural Networks", ICML 2017, section 4.2), then multiplies powers of both. `fit_weighted` fits it, on
  videos that neither training nor the evaluation uses.

Probabilities are (N, C), rows sum to 1; labels are (N,) in [0, C). Products are sums of logarithms in float64, where a
probability of zero counts as the smallest normal float32 number: it says "never" and stays finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

BASELINES = ("product", "mean", "weighted")
"""Names of the baselines, in the order in which reports list them."""

_SMALLEST = float(np.finfo(np.float32).tiny)
_LEAST_EXPONENT = 0.01  # of a stream alone: its temperature is at most 100, and finite
_RIDGE = 1e-4  # in nats; see `fit_exponents`


def product_rule(rgb: FloatArray, flow: FloatArray) -> FloatArray:
    """Multiply the streams: p_k = rgb_k flow_k / sum_j rgb_j flow_j (Kittler et al. 1998, with equal priors).

    Args:
        rgb: (N, C) probabilities.
        flow: (N, C) probabilities.

    Returns:
        (N, C) float32, rows sum to 1.
    """
    return _fuse((1.0, 1.0), (rgb, flow))


def mean_rule(rgb: FloatArray, flow: FloatArray) -> FloatArray:
    """Average the streams: p_k = (rgb_k + flow_k) / 2 (Kittler et al. 1998, with equal priors).

    Args:
        rgb: (N, C) probabilities.
        flow: (N, C) probabilities.

    Returns:
        (N, C) float32, rows sum to 1 as far as those of the streams do.
    """
    return np.asarray((np.float64(rgb) + np.float64(flow)) / 2, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class WeightedFusion:
    """Multiply powers of two calibrated streams.

    With temperatures T and exponents a, b >= 0:

        r_k ∝ rgb_k^(1 / T_rgb),  f_k ∝ flow_k^(1 / T_flow),  p_k ∝ r_k^a f_k^b

    A temperature above 1 softens a stream that is too sure of itself. a = b = 1 is the product rule of the calibrated
    streams. Exponents do not tell how much a stream counts, for a stream that knows little is flat once it is
    calibrated, whatever its exponent; `rgb_weight` and `flow_weight` do.

    Attributes:
        rgb_temperature: T_rgb.
        flow_temperature: T_flow.
        rgb_exponent: a.
        flow_exponent: b.
        rgb_weight: RGB's share of what decides: a s_rgb / (a s_rgb + b s_flow), where s is the standard deviation of
            the stream's calibrated log-probabilities over the classes, averaged over the validation videos.
        num_videos: validation videos that it was fitted on.
    """

    rgb_temperature: float
    flow_temperature: float
    rgb_exponent: float
    flow_exponent: float
    rgb_weight: float
    num_videos: int

    @property
    def flow_weight(self) -> float:
        """Return flow's share of what decides, 1 - `rgb_weight`."""
        return 1 - self.rgb_weight

    def __call__(self, rgb: FloatArray, flow: FloatArray) -> FloatArray:
        """Fuse (N, C) probabilities of both streams to (N, C) float32 probabilities."""
        powers = self.rgb_exponent / self.rgb_temperature, self.flow_exponent / self.flow_temperature
        return _fuse(powers, (rgb, flow))


def fit_weighted(labels: IntArray, rgb: FloatArray, flow: FloatArray) -> WeightedFusion:
    """Fit temperatures, then exponents, each by the least cross-entropy on validation videos.

    Args:
        labels: (N,) int64, N >= 1.
        rgb: (N, C) probabilities on videos that the stream was not trained on.
        flow: (N, C) probabilities on the same videos.

    Returns:
        The fusion; the order of the videos and of the classes does not matter.
    """
    temperatures = [1 / fit_exponents(labels, [stream])[0] for stream in (rgb, flow)]
    calibrated = [
        _log(_fuse((1 / temperature,), (stream,)))
        for temperature, stream in zip(temperatures, (rgb, flow), strict=True)
    ]
    a, b = _least_cross_entropy(labels, np.stack(calibrated), least=0.0)
    influence = np.array([a, b]) * [float(stream.std(axis=1).mean()) for stream in calibrated]
    total = float(influence.sum())
    return WeightedFusion(
        rgb_temperature=float(temperatures[0]),
        flow_temperature=float(temperatures[1]),
        rgb_exponent=float(a),
        flow_exponent=float(b),
        rgb_weight=float(influence[0]) / total if total else 0.5,  # two flat streams decide nothing, equally
        num_videos=len(labels),
    )


def fit_exponents(labels: IntArray, streams: Sequence[FloatArray]) -> Float64Array:
    """Find the powers of the streams whose normalised product has the least cross-entropy.

    Minimises -1/N sum_n ln p_n(label_n) with p_k ∝ prod_s stream_sk^(e_s) over e_s >= 0.01. For one stream 1 / e is the
    temperature of Guo et al. 2017. It is convex (a conditional logistic regression with one weight a stream). A ridge
    of 1e-4 (e_s - 1)^2 / 2 makes the minimum one point where the videos leave it open: where streams are equal, where
    a stream is flat, or where every video is right, which alone would ask for infinity.

    Args:
        labels: (N,) int64, N >= 1.
        streams: S arrays (N, C) of probabilities.

    Returns:
        (S,) float64.
    """
    return _least_cross_entropy(labels, np.stack([_log(stream) for stream in streams]), least=_LEAST_EXPONENT)


def _least_cross_entropy(labels: IntArray, logs: Float64Array, *, least: float) -> Float64Array:
    """Minimise over exponents of at least `least`; logs are (S, N, C)."""
    rows = np.arange(len(labels))
    at_label = logs[:, rows, labels].mean(axis=1)

    def value_and_gradient(exponents: Float64Array) -> tuple[float, Float64Array]:
        scores = np.tensordot(exponents, logs, axes=1)
        normaliser = special.logsumexp(scores, axis=1, keepdims=True)
        expected = (logs * np.exp(scores - normaliser)).sum(axis=2).mean(axis=1)
        beyond = exponents - 1
        value = normaliser.mean() - exponents @ at_label + _RIDGE / 2 * beyond @ beyond
        return float(value), np.asarray(expected - at_label + _RIDGE * beyond)

    found = optimize.minimize(
        value_and_gradient,
        np.ones(len(logs)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(least, None)] * len(logs),
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    return np.asarray(found.x, dtype=np.float64)


def _fuse(powers: Sequence[float], streams: Sequence[FloatArray]) -> FloatArray:
    scores = sum(power * _log(stream) for power, stream in zip(powers, streams, strict=True))
    return np.asarray(special.softmax(scores, axis=1), dtype=np.float32)


def _log(probabilities: FloatArray) -> Float64Array:
    return np.asarray(np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _SMALLEST)))
