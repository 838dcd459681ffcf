"""Models of what is normal, which find where a picture is not."""
