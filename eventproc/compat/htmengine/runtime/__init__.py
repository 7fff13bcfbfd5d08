"""What results look like on their way."""
