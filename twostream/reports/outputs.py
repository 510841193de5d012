"""How every report and picture names and colours what a model says: its two streams, their fusion, and baselines."""

NAMES = {
    "fused": "Fused",
    "rgb": "RGB",
    "flow": "Flow",
    "product": "Product",
    "mean": "Mean",
    "weighted": "Weighted",
    "scores": "Scores",
}

# Okabe and Ito's palette: told apart with any common colour blindness
COLOURS = {"rgb": "#0072B2", "flow": "#D55E00", "fused": "#000000"}
PALE_COLOURS = {"rgb": "#8FBEDF", "flow": "#F2B58F"}
OTHER_COLOUR = "#767676"  # of every output that is neither a stream nor the model's fusion
RUN_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of runs, which all have the same outputs
