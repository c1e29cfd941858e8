"""What requests may hold, and what is answered."""
