"""Official checkpoints, recognised by their content and read without executing anything in them."""
