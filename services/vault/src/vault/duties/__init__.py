"""A processor's duties: export, rectification, retention, registers, objections, the end of an account."""
