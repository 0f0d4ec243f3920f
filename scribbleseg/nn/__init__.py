"""scribbleseg."""
