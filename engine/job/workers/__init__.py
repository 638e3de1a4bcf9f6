"""What anonymizes a job's batches."""
