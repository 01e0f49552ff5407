"""`waystation demo`: mail goes down the whole road while things go wrong, told as a story, checked at its end."""
