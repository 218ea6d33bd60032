"""On the node: tasks in slots, each with an attempt of its own, watched and judged."""
