"""Container images: what is known of them, where they are kept, and whose are trusted."""
