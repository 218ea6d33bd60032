"""What the attempts of a task have left behind, and what is concluded from it."""
