"""Building images: recipes, pinned packages, layers, and the lock of what came of them."""
