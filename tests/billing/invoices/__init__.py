"""Documents as they are issued."""
