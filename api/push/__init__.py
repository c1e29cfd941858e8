"""How a sent chat reaches an open stream."""
