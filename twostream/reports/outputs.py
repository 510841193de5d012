"""How every report and picture names and colours what a model says: its two streams, their fusion, and baselines."""

NAMES = {
    "fused": "Fused",
    "rgb": "RGB",
    "flow": "Flow",
    "product": "Product",
    "mean": "Mean",
    "weighted": "Weighted",
}

# Okabe and Ito's palette: told apart with any common colour blindness
COLOURS = {"rgb": "#0072B2", "flow": "#D55E00", "fused": "#000000"}
PALE_COLOURS = {"rgb": "#8FBEDF", "flow": "#F2B58F"}
