"""A report as one HTML page to work with: templates, and what fills them."""
