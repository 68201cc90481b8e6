"""Applications that notebooks start in processes of their own."""
