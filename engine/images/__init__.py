"""Image files to pixels and back, and the faces in them."""
