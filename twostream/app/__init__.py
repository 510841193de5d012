"""A page to try a trained model: drop in a video, see what it says and why. Needs the extra `app`."""
