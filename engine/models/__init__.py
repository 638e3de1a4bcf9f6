"""Bundles of networks: opened, written, downloaded and imported."""
