"""The four networks of the method, each with a frozen configuration."""
