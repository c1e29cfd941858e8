"""What is served: one module for each group of routes."""
