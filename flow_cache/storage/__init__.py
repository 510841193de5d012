"""Where files lie: local paths and URLs behind the same operations; files that appear whole or not at all."""
