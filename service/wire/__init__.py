"""What callers and policies say, by format. Knows no HTTP and no state."""
