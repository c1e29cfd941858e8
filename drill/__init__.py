"""The destruction drill: loads a throwaway Shoptalk, breaks it in every way, accounts for every chat."""
