"""Training scripts of the demo bundle."""
