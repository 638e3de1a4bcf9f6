"""The method: from originals to other people with the same attributes. Source: FALCO (CVPR 2023)."""
