"""A job: a folder in which a set of images becomes a set of other people, and which can be stopped at any moment."""
