"""The door: accounts, instructions, admitted messages."""
