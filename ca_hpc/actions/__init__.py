"""What a user can do. Actions compose the parts and print nothing; ``cli.py`` prints."""
