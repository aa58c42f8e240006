"""What things cost as there are more of them: nothing may grow worse than linearly."""
