"""Two-stream video action recognition: CNN-LSTM streams over RGB and optical flow, merged by attention."""
