"""What is done with a finished cache: describe, verify, repair, export, import, view."""
