"""Container images: recipes, building, and what is known of those that exist."""
