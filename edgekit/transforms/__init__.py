"""What happens to updates on their way, whatever the method: one file a transform."""
