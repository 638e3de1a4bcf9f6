"""What this program asks of the machine it runs on: files, devices, memory, the driver."""
