"""The destruction drill: puts a throwaway Shoptalk under load, breaks it, and accounts for every chat."""
