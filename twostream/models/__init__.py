"""Networks: backbones, CNN-LSTM streams, and their fusion. Tensors in, tensors out; no files, no data sets."""
