"""Plain functions that draw: from a density known up to a factor, from proposals and a density ratio."""
