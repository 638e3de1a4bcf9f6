"""Where images come from, and the faces in them, a little ahead of whoever uses them."""
