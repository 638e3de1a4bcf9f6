"""The `faceanon-engine` command line."""
