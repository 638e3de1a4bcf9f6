"""Running a frozen network on a batch, with whatever the machine has. Importing this package imports no framework."""
