"""Review: what screening holds goes to people, who see content only inside a case and decide with clause and reason."""
