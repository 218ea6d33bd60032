"""How a run goes on after an interruption or a failure, with nobody logged in."""
