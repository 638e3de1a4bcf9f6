"""Synthetic faces, and the small bundle trained on them."""
