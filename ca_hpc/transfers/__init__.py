"""Files from elsewhere, over http(s)."""
